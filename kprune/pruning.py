"""One-shot pruning, and the steps that callbacks share with it."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from kprune import allocation as allocations
from kprune import criteria
from kprune.cost.model import CostModel
from kprune.criteria.data import as_source
from kprune.graph import ChannelGraph
from kprune.graph import trace
from kprune.masking import is_masked
from kprune.masking import masks as read_masks
from kprune.masking import require_masked
from kprune.masking import require_prunable
from kprune.masking import set_masks
from kprune.masking import wrap
from kprune.rebuild.optimizer import base_optimizer
from kprune.rebuild.optimizer import slot_variables

Vectors = dict[str, np.ndarray]


def prune(
    model: keras.Model,
    criterion: Any = "l1",
    reduce: Mapping[str, float] | None = None,
    allocation: Any = "global",
    data: Any = None,
    skip: Iterable[Any] | None = None,
) -> keras.Model:
    """Remove filters in one shot, without training.

    The weights of removed filters are set to 0, and so is what the optimizer
    remembers of them.

    Args:
        model: A plain model, which stays as it is, or one that `kprune.wrap`
            made, which is pruned in place. Filters that are gone stay gone.
        criterion: How much a filter matters: `"l1"`, `"l2"`, `"bn_scale"`,
            `"fpgm"`, `"taylor"`, `"activation"`, `"apoz"`, `"random"`, an
            object of `kprune.criteria`, or a function
            `f(group) -> scores (group.size,)`, larger = keep.
        reduce: Share of each cost to remove, counted against the unpruned
            model: `{"macs": 0.5}`, `{"params": 0.4}` or both. By default half
            of the MACs, or what a dictionary as `allocation` says.
        allocation: How many filters each group keeps: `"global"`,
            `"uniform"`, a dictionary `{group name: share to remove}`, an
            object of `kprune.allocation`, or a function
            `f(scores) -> priorities`.
        data: Samples for criteria that run the model: arrays `x` or
            `(x, y)`, a `tf.data.Dataset`, a `keras.utils.PyDataset` or a
            generator.
        skip: Layers, or names of layers, whose filters must stay. For plain
            models only.

    Returns:
        The masked model, compiled if `model` was. `kprune.rebuild` makes the
        small one of it.

    Raises:
        ValueError: No filter can be removed, the target is out of reach, or
            the criterion lacks data or a loss; the message says what to do.

    Example:

    ```python
    masked = kprune.prune(model, criterion="l1", reduce={"macs": 0.5})
    compact = kprune.rebuild(masked)
    ```
    """
    masked = _masked(model, skip)
    plan = Plan(masked, criterion, reduce, allocation, data)
    plan.check()
    alive = plan.settle()
    plan.remove(plan.allocate(plan.score(alive), alive=alive))
    return masked


def _masked(model: keras.Model, skip: Iterable[Any] | None) -> keras.Model:
    if not is_masked(model):
        return wrap(model, skip)
    if skip is not None:
        raise ValueError(
            f"Model '{model.name}' is wrapped already, so `skip` comes too late. "
            "Give it to kprune.wrap(model, skip=...), or prune the plain model."
        )
    return model


class Plan:
    """What to prune in one masked model, step by step: score, allocate, remove.

    Args:
        masked: A model made by `kprune.wrap`.
        criterion: As of `prune`.
        reduce: As of `prune`.
        allocation: As of `prune`.
        data: As of `prune`.

    Example:

    ```python
    plan = Plan(masked, "l1", {"macs": 0.5}, "global")
    scores = plan.score()
    plan.remove(plan.allocate(scores, fraction=0.5))
    plan.removed()  # {"macs": 0.2504, "params": 0.2711}
    ```
    """

    def __init__(
        self,
        masked: keras.Model,
        criterion: Any = "l1",
        reduce: Mapping[str, float] | None = None,
        allocation: Any = "global",
        data: Any = None,
    ) -> None:
        require_masked(masked)
        self.masked = masked
        self.criterion = criteria.get(criterion)
        self.allocation = allocations.get(allocation)
        self.data = None if data is None else as_source(data)
        self.graph: ChannelGraph = trace(masked)
        require_prunable(self.graph)
        self.cost_model = CostModel(self.graph)
        self.reduce = allocations.targets(
            reduce, self.allocation, self.cost_model
        )

    def check(self) -> None:
        """Raise what scoring or allocating would raise at the whole target."""
        self.criterion.check(self.masked, self.data)
        allocations.check(
            self.graph, self.reduce, self.allocation, self.cost_model
        )

    def alive(self) -> Vectors:
        """Return, for each prunable group's name, booleans: not removed."""
        return {
            name: vector > 0
            for name, vector in read_masks(self.masked, self.graph).items()
        }

    def settle(self) -> Vectors:
        """Zero the weights of all that is removed; return `alive()`.

        To be called before scoring: masks set by hand leave weights behind that
        a criterion would count.
        """
        alive = self.alive()
        zero_removed(self.masked, self.graph, alive)
        return alive

    def score(self, alive: Mapping[str, np.ndarray] | None = None) -> Vectors:
        """Return the scores of all prunable groups by name."""
        return criteria.score_groups(
            self.criterion, self.graph.prunable, self.masked, self.data, alive
        )

    def allocate(
        self,
        scores: Vectors,
        fraction: float = 1.0,
        alive: Mapping[str, np.ndarray] | None = None,
    ) -> Vectors:
        """Return the masks that go `fraction` of the way to the target."""
        return allocations.allocate(
            self.graph,
            scores,
            self.reduce,
            self.allocation,
            self.cost_model,
            alive,
            fraction,
        )

    def remove(self, masks: Vectors) -> None:
        """Set the masks, and the weights of what they remove to 0."""
        set_masks(self.masked, masks, self.graph)
        zero_removed(self.masked, self.graph, masks)

    def removed(self) -> dict[str, float]:
        """Return which share of the unpruned model's costs is gone."""
        alive = self.alive()
        kept = np.array([int(alive[g.name].sum()) for g in self.graph.prunable])
        costs, full = self.cost_model.evaluate(kept), self.cost_model.full
        return {key: 1.0 - float(costs[key]) / float(full[key]) for key in full}

    def met(self, fraction: float = 1.0) -> bool:
        """Return whether `fraction` of the way to the target is done."""
        return allocations.met(
            self.graph,
            self.reduce,
            self.allocation,
            self.cost_model,
            self.alive(),
            fraction,
        )


def zero_removed(
    masked: keras.Model, graph: ChannelGraph, masks: Vectors
) -> None:
    """Set to 0 what training could revive or penalise in removed channels.

    A mask alone makes removed weights act as 0. But momentum and weight decay
    go on moving the numbers behind it, and weight penalties go on counting
    them; this makes them 0, along with their optimizer slots, for good.

    Args:
        masked: The masked model.
        graph: `kprune.trace(masked)`.
        masks: For each group's name a vector `(size,)`, 0 = removed.
    """
    places: dict[int, list[tuple[int, np.ndarray]]] = {}
    for name, mask in masks.items():
        gone = np.asarray(mask) == 0
        if not gone.any():
            continue
        for member in graph[name].members:
            if member.role != "statistic":
                cuts = places.setdefault(id(member.variable), [])
                cuts.append((member.axis, member.index[gone].ravel()))
    slots: dict[int, list[Any]] = {}
    optimizer = base_optimizer(getattr(masked, "optimizer", None))
    if optimizer is not None and optimizer.built:
        learned = optimizer._trainable_variables
        per_variable = slot_variables(optimizer, learned)
        slots = {id(v): s for v, s in zip(learned, per_variable, strict=True)}
    for variable in masked.variables:
        for target in [variable, *slots.get(id(variable), [])]:
            _zero(target, places.get(id(variable), []))


def _zero(variable: Any, cuts: list[tuple[int, np.ndarray]]) -> None:
    if not cuts:
        return
    value = np.array(ops.convert_to_numpy(variable))
    for axis, positions in cuts:
        np.moveaxis(value, axis, 0)[positions] = 0
    variable.assign(value)
