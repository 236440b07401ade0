"""Turns channels of a masked model into copies of others."""

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
from kprune.masking.slots import slots_by_variable
from kprune.parts import Part
from kprune.rebuild.copies import CopyMap
from kprune.rebuild.copies import Edit
from kprune.rebuild.copies import edited
from kprune.rebuild.copies import places
from kprune.rebuild.equivalence import inexact

logger = logging.getLogger("kprune")

Vectors = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, repr=False)
class Copies(Part):
    """A way of copying filters.

    Args:
        donors: Which kept filter goes where: `"proportional"` to the scores,
            `"rank"` (best to worst, in turns), `"nearest"` (the most similar
            one), a `DonorMap` or a function of `Vacancies`.
        consumers: What becomes of the weights that read copies: `"split"`,
            `"naive"`, `"zero"`, `"absorb"`, a `ConsumerRule`, or a function
            `f(rows, copy_map) -> rows`.
        set_size: Most filters of equal weights, the donor included. What it
            leaves without a donor is removed.
        noise: Standard deviation of the noise on copied kernels, relative to
            that of the donor's filter. Above 0, copies part in training.
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
        """Whether copies get the gradients of their donors, and so stay equal."""
        return bool(self.consumers.equal) and self.noise == 0


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The fate of the channels that were to go.

    Args:
        maps: By group name, which channels are copies of which.
        masks: By group name 0/1 vectors: channels at 0 are to be removed,
            since they cannot be copies.
        reasons: By group name, why a group has no copies.
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
) -> Outcome:
    """Decide who donates to whom, without changing anything.

    Args:
        graph: `kprune.trace(masked)`.
        masks: By group name 0/1 vectors, 0 for channels that are to go.
        scores: By group name `(size,)` scores, larger = keep.
        alive: By group name booleans: channels that are not gone yet.
        copies: How to copy.
    """
    outcome = Outcome({}, {}, {})
    for name, mask in masks.items():
        group = graph[name]
        kept = np.flatnonzero(np.asarray(mask) > 0)
        going = np.flatnonzero((np.asarray(mask) == 0) & alive[name])
        if not going.size:
            continue
        if not group.producers:
            outcome.give_up(name, mask, "no filters make these channels")
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
        outcome.maps[name] = CopyMap(every, copies.consumers.shares(every))
        if going.size > room:
            left = np.asarray(alive[name], dtype="float32")
            left[going[order[room:]]] = 0
            outcome.masks[name] = left
    return outcome


def only_exact(
    masked: keras.Model,
    graph: ChannelGraph,
    masks: Mapping[str, np.ndarray],
    outcome: Outcome,
) -> Outcome:
    """Give up copies in groups whose channels cannot be copied exactly.

    Args:
        masked: A model made by `kprune.wrap`.
        graph: `kprune.trace(masked)`.
        masks: See `plan_copies`.
        outcome: Its result, which is changed.
    """
    for name, why in inexact(masked, graph, outcome.maps).items():
        outcome.give_up(name, masks[name], why)
    return outcome


def make_copies(
    masked: keras.Model,
    graph: ChannelGraph,
    maps: dict[str, CopyMap],
    copies: Copies,
    data: Any = None,
) -> None:
    """Write the weights of copies and of all that reads them.

    What the optimizer remembers of a donor is copied likewise.

    Args:
        masked: A model made by `kprune.wrap`.
        graph: `kprune.trace(masked)`.
        maps: Copy maps by group name.
        copies: How to copy.
        data: Samples, for consumer rules that run the model.
    """
    for variable, value in new_values(masked, graph, maps, copies, data):
        variable.assign(value)
    _copy_slots(masked, graph, maps)


def new_values(
    masked: keras.Model,
    graph: ChannelGraph,
    maps: dict[str, CopyMap],
    copies: Copies,
    data: Any = None,
) -> list[tuple[keras.Variable, np.ndarray]]:
    """Return the variables that copying changes, with their new values.

    The arguments are those of `make_copies`. Nothing is changed yet, so that
    all rules look at the weights as they were.
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
    masked: keras.Model, graph: ChannelGraph, maps: dict[str, CopyMap]
) -> None:
    """Copy what the optimizer remembers, so that copies go on alike."""
    slots = slots_by_variable(masked)
    spots = places(graph, maps)

    def edit(name: str, member: Member, rows: np.ndarray) -> np.ndarray:
        return rows[maps[name].donors]

    for variable in masked.trainable_variables:
        mine = spots.get(id(variable), [])
        for slot in slots.get(id(variable), {}).values():
            slot.assign(np.array(edited(read(slot), mine, edit)))
