"""Replacement of channels of a masked model by copies of others."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from kprune.arguments import number
from kprune.arguments import whole
from kprune.data.source import as_source
from kprune.duplication import consumers
from kprune.duplication import donors
from kprune.duplication.consumers import ConsumerRule
from kprune.duplication.consumers import Replacement
from kprune.graph.channel_graph import ChannelGraph
from kprune.graph.channel_graph import Member
from kprune.graph.record import FILTER
from kprune.graph.record import INPUT
from kprune.graph.values import read
from kprune.masking.slots import edited_slots
from kprune.masking.slots import slots_by_variable
from kprune.parts import Part
from kprune.rebuild.copies import CopyMap
from kprune.rebuild.copies import Edit
from kprune.rebuild.copies import edited
from kprune.rebuild.copies import places
from kprune.rebuild.copies import split
from kprune.rebuild.equivalence import inexact

logger = logging.getLogger("kprune")

Vectors = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, repr=False)
class Copies(Part):
    """How to copy filters.

    Args:
        donors: How to choose donors: `"proportional"` to the scores, `"rank"` (best to
            worst, repeatedly), `"nearest"` (the most similar filter), a `DonorMap` or
            a function of `Vacancies`.
        consumers: What to do with the weights that read copies: `"split"`, `"naive"`,
            `"zero"`, `"absorb"`, a `ConsumerRule`, or a function
            `f(rows, copy_map) -> rows`.
        set_size: Largest number of equal filters, including the donor. Filters that
            get no donor because of it are removed.
        noise: Standard deviation of the noise on copied kernels, relative to that of
            the donor's filter. Above 0, copies diverge in training.
        seed: Seed of the noise.

    Example:

    ```python
    copies = kprune.duplication.Copies(donors="nearest", consumers="absorb")
    masked = kprune.duplicate(model, data=(x, y), copies=copies)
    ```
    """

    donors: Any = "proportional"
    consumers: Any = "split"
    set_size: int = 4
    noise: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        why = ": a donor and at least one copy"
        whole(self.set_size, "Copies", "set_size", 2, why=why)
        number(self.noise, "Copies", "noise", least=0)
        donors.registry.get(self.donors)
        object.__setattr__(self, "consumers", consumers.get(self.consumers))

    @property
    def tied(self) -> bool:
        """Whether copies get the same gradients as their donors, so they stay equal."""
        return bool(self.consumers.equal) and self.noise == 0


@dataclasses.dataclass(frozen=True)
class CopyPlan:
    """Which of the chosen channels become copies, and which are removed.

    Args:
        maps: Group name -> which channels are copies of which.
        masks: Group name -> vector of 0 and 1: channels with 0 are removed, because
            they cannot be copies.
        reasons: Group name -> why the group has no copies.
    """

    maps: dict[str, CopyMap]
    masks: Vectors
    reasons: dict[str, str]

    def give_up(self, name: str, mask: np.ndarray, why: str) -> None:
        """Record that the channels of a group are removed, not replaced."""
        self.maps.pop(name, None)
        self.masks[name] = np.array(mask, dtype="float32")
        self.reasons[name] = why


def plan_copies(
    graph: ChannelGraph,
    masks: Mapping[str, np.ndarray],
    scores: Mapping[str, np.ndarray],
    alive: Mapping[str, np.ndarray],
    copies: Copies,
) -> CopyPlan:
    """Choose the donors of channels, without changing anything.

    Args:
        graph: `kprune.trace(masked)`.
        masks: Group name -> vector of 0 and 1, 0 for channels to replace.
        scores: Group name -> scores of shape `(size,)`.
        alive: Group name -> booleans of shape `(size,)`: alive channels.
        copies: How to copy.
    """
    plan = CopyPlan({}, {}, {})
    for name, mask in masks.items():
        group = graph[name]
        kept = np.flatnonzero(np.asarray(mask) > 0)
        going = np.flatnonzero((np.asarray(mask) == 0) & alive[name])
        if not going.size:
            continue
        if not group.producers:
            plan.give_up(name, mask, "no filters produce these channels")
            continue
        order = np.argsort(-scores[name][going], kind="stable")
        room = kept.size * (copies.set_size - 1)
        replaced = np.sort(going[order[:room]])
        every = np.arange(group.size)
        every[replaced] = donors.choose(
            copies.donors,
            donors.Vacancies(
                group, scores[name], kept, replaced, copies.set_size - 1
            ),
        )
        plan.maps[name] = CopyMap(every, copies.consumers.shares(every))
        if going.size > room:
            left = np.asarray(alive[name], dtype="float32")
            left[going[order[room:]]] = 0
            plan.masks[name] = left
    return plan


def only_exact(
    masked: keras.Model,
    graph: ChannelGraph,
    masks: Mapping[str, np.ndarray],
    plan: CopyPlan,
) -> CopyPlan:
    """Drop copies in groups whose channels cannot be copied exactly.

    Args:
        masked: A model made by `kprune.wrap`.
        graph: `kprune.trace(masked)`.
        masks: See `plan_copies`.
        plan: The result of `plan_copies`, which is changed.
    """
    for name, why in inexact(masked, graph, plan.maps).items():
        plan.give_up(name, masks[name], why)
    return plan


def make_copies(
    masked: keras.Model,
    graph: ChannelGraph,
    maps: dict[str, CopyMap],
    copies: Copies,
    data: Any = None,
    optimizer: Any = None,
) -> None:
    """Assign the weights of copies and of the layers that read them.

    The optimizer's slots of donors are copied too, and its copies of weights, such as
    moving averages, stay as far from the weights as they were.

    Args:
        masked: A model made by `kprune.wrap`.
        graph: `kprune.trace(masked)`.
        maps: Copy maps by group name.
        copies: How to copy.
        data: Samples, for consumer rules that run the model.
        optimizer: The optimizer with the slots. Defaults to `masked.optimizer`.
    """
    _copy_slots(masked, graph, maps, optimizer)
    carried, spots = edited_slots(masked, optimizer), places(graph, maps)
    for variable, value in new_values(masked, graph, maps, copies, data):
        for slot in carried.get(id(variable), {}).values():
            apart = read(slot) - read(variable)
            mine = spots.get(id(variable), [])
            slot.assign(value + edited(apart, mine, split(maps)))
        variable.assign(value)


def new_values(
    masked: keras.Model,
    graph: ChannelGraph,
    maps: dict[str, CopyMap],
    copies: Copies,
    data: Any = None,
) -> list[tuple[keras.Variable, np.ndarray]]:
    """Return the variables that copying changes, with their new values.

    The arguments are those of `make_copies`. Nothing is changed, so that all rules
    use the original weights.
    """
    rule: ConsumerRule = copies.consumers
    source = None if data is None else as_source(data, masked)
    replacement = Replacement(masked, graph, maps, source)
    read_rule, shifts = rule.reader(replacement), rule.shifts(replacement)
    produce = _producing(maps, copies)
    spots = places(graph, maps)

    def edit(name: str, member: Member, rows: np.ndarray) -> np.ndarray:
        chosen = read_rule if member.role == INPUT else produce
        return chosen(name, member, rows)

    values = []
    for variable in masked.variables:
        mine = spots.get(id(variable), [])
        if mine or id(variable) in shifts:
            value = read(variable) + shifts.get(id(variable), 0)
            value = edited(value.astype(variable.dtype), mine, edit)
            values.append((variable, np.array(value)))
    return values


def _producing(maps: dict[str, CopyMap], copies: Copies) -> Edit:
    rng = np.random.default_rng(copies.seed)

    def edit(name: str, member: Member, rows: np.ndarray) -> np.ndarray:
        known = maps[name]
        new = rows[known.donors]
        if copies.noise and member.role == FILTER and member.name != "bias":
            flat = new.reshape(new.shape[0], -1)
            spread = copies.noise * flat.std(axis=1, keepdims=True)
            noise = spread * rng.normal(size=flat.shape)
            noise[~known.replaced] = 0
            new = new + noise.reshape(new.shape)
        return new

    return edit


def _copy_slots(
    masked: keras.Model,
    graph: ChannelGraph,
    maps: dict[str, CopyMap],
    optimizer: Any,
) -> None:
    """Copy the optimizer's slots, so that copies are updated alike."""
    slots = slots_by_variable(masked, optimizer)
    carried = edited_slots(masked, optimizer)
    spots = places(graph, maps)

    def edit(name: str, member: Member, rows: np.ndarray) -> np.ndarray:
        return rows[maps[name].donors]

    for variable in masked.trainable_variables:
        mine = spots.get(id(variable), [])
        for name, slot in slots.get(id(variable), {}).items():
            if name not in carried[id(variable)]:
                slot.assign(np.array(edited(read(slot), mine, edit)))
