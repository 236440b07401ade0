"""One-shot pruning, and the steps that callbacks share with it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from kprune import allocation as allocations
from kprune import criteria
from kprune.data.source import as_source
from kprune.data.source import require_data
from kprune.graph import ChannelGraph
from kprune.graph import trace
from kprune.latency.allocation import latency_aware
from kprune.masking import TemporaryMasks
from kprune.masking import is_masked
from kprune.masking import masks as read_masks
from kprune.masking import require_masked
from kprune.masking import require_prunable
from kprune.masking import set_masks
from kprune.masking import wrap
from kprune.masking.removal import removed_places
from kprune.masking.removal import zero
from kprune.masking.removal import zero_removed
from kprune.masking.state import State
from kprune.recovery import base as recoveries
from kprune.session.loss import LossProbe
from kprune.session.loss import check_loss

Vectors = dict[str, np.ndarray]


def prune(
    model: keras.Model,
    criterion: Any = "l1",
    reduce: Mapping[str, float] | None = None,
    allocation: Any = "global",
    data: Any = None,
    skip: Iterable[Any] | None = None,
    recover: Any = None,
) -> keras.Model:
    """Remove filters in one shot, without training.

    The weights of removed filters are set to 0, and so is what the optimizer
    remembers of them. With `recover`, the layers that stay are repaired on
    samples, which takes no training and no labels.

    Args:
        model: A plain model, which stays as it is, or one that `kprune.wrap`
            made, which is pruned in place. Filters that are gone stay gone.
        criterion: How much a filter matters: `"l1"`, `"l2"`, `"bn_scale"`,
            `"fpgm"`, `"similarity"`, `"taylor"`, `"activation"`, `"apoz"`,
            `"loss_increase"`, `"msvfp"`, `"random"`, an object of
            `kprune.criteria`, or a function
            `f(group) -> scores (group.size,)`, larger = keep.
        reduce: Share of each cost to remove, counted against the unpruned
            model: `{"macs": 0.5}`, `{"params": 0.4}`, `{"latency": 0.5}` or
            several. Latency is that of operators measured on this machine, or
            on a device whose table `kprune.latency.Latency` is given as
            `allocation`. By default half of the MACs, or what a dictionary as
            `allocation` says.
        allocation: How many filters each group keeps: `"global"`,
            `"uniform"`, `"similarity"`, `"greedy_loss"`, `"rounds"`, a
            dictionary `{group name: share to remove}`, an object of
            `kprune.allocation`, or a function `f(scores) -> priorities`.
        data: Samples for criteria and allocations that run the model:
            arrays `x` or `(x, y)`, a `tf.data.Dataset`, a
            `keras.utils.PyDataset` or a generator.
        skip: Layers, or names of layers, whose filters must stay. For plain
            models only.
        recover: How to repair what removing filters breaks: `"bn"` measures
            the statistics of batch normalisation anew, `"bias"` folds the
            means of removed channels into biases, `"reconstruct"` refits all
            layers behind them by least squares, `"merge"` adds removed
            filters to similar ones. Or an object of `kprune.recovery`, or a
            function `f(lockstep)`. `None` for nothing.

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
    if recover is not None:
        recoveries.check(recover, data)
        recover = recoveries.get(recover)
    masked = as_masked(model, skip)
    plan = Plan(masked, criterion, reduce, allocation, data)
    plan.check()
    alive = plan.settle()
    before = None if recover is None else State(masked)
    plan.remove(plan.allocate(plan.score(alive), alive=alive))
    if before is not None:
        recoveries.recover(masked, before, plan.data, recover)
    return masked


def as_masked(model: keras.Model, skip: Iterable[Any] | None) -> keras.Model:
    """Return a plain model wrapped, and a wrapped one as it is.

    Raises:
        ValueError: The model is wrapped already, but there are layers to skip.
    """
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
        self.allocation = latency_aware(allocations.get(allocation), reduce)
        self.data = None if data is None else as_source(data)
        self.graph: ChannelGraph = trace(masked)
        require_prunable(self.graph)
        self.cost_model = self.allocation.costs(masked, self.graph)
        self.reduce = allocations.targets(
            reduce, self.allocation, self.cost_model
        )
        # Made when first asked for: they compile, or read the whole model.
        self._temporary: TemporaryMasks | None = None
        self._probes: dict[int | None, LossProbe] = {}
        self._criteria: dict[Any, criteria.Criterion] = {}

    def check(self) -> None:
        """Raise what scoring or allocating would raise at the whole target."""
        self.criterion.check(self.masked, self.data)
        for other in self.allocation.criteria:
            self._criterion(other).check(self.masked, self.data)
        if self.allocation.needs_loss:
            self._check_loss()
        if self.allocation.needs_data:
            require_data(
                self.data, f"Allocation {type(self.allocation).__name__}"
            )
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
        alive = self.alive() if alive is None else alive
        progress = self.problem({}, alive=alive).progress()
        return criteria.score_groups(
            self.criterion.at(progress),
            self.graph.prunable,
            self.masked,
            self.data,
            alive,
        )

    def allocate(
        self,
        scores: Vectors,
        fraction: float = 1.0,
        alive: Mapping[str, np.ndarray] | None = None,
    ) -> Vectors:
        """Return the masks that go `fraction` of the way to the target."""
        problem = self.problem(scores, fraction, alive)
        return allocations.solve(self.allocation, problem)

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

    def met(
        self,
        fraction: float = 1.0,
        alive: Mapping[str, np.ndarray] | None = None,
    ) -> bool:
        """Return whether `fraction` of the way to the target is done.

        Args:
            fraction: Share of the way, from 0 to 1.
            alive: For each group's name booleans, to ask for these instead of
                what is alive.
        """
        return self.allocation.met(
            self.problem({}, fraction, self.alive() if alive is None else alive)
        )

    def problem(
        self,
        scores: Vectors,
        fraction: float = 1.0,
        alive: Mapping[str, np.ndarray] | None = None,
    ) -> allocations.Problem:
        """Return what the allocation has to decide; see `allocate`."""
        problem = allocations.pose(
            self.graph,
            scores,
            self.reduce,
            self.allocation,
            self.cost_model,
            alive,
            fraction,
        )
        return dataclasses.replace(
            problem, loss=self._loss, rescore=self._rescore, data=self.data
        )

    def _check_loss(self) -> None:
        owner = f"Allocation {type(self.allocation).__name__}"
        check_loss(self.masked, self.data, owner)

    def _loss(self, masks: Vectors, samples: int | None = None) -> float:
        """See `Problem.loss`; the same samples in each call."""
        if samples not in self._probes:
            self._check_loss()
            source = as_source(self.data)
            if samples is not None:
                source = source.sample(samples)
            self._probes[samples] = LossProbe(
                self.masked, source, graph=self.graph
            )
        return self._probes[samples].trial(masks)

    def _rescore(
        self, alive: Vectors, progress: float, criterion: Any = None
    ) -> Vectors:
        """See `Problem.rescore`."""
        with self._as_if(alive):
            return criteria.score_groups(
                self._criterion(criterion).at(progress),
                self.graph.prunable,
                self.masked,
                self.data,
                alive,
            )

    def _criterion(self, identifier: Any) -> criteria.Criterion:
        """Return the same object each time: some of them compile."""
        if identifier is None:
            return self.criterion
        if identifier not in self._criteria:
            self._criteria[identifier] = criteria.get(identifier)
        return self._criteria[identifier]

    @contextlib.contextmanager
    def _as_if(self, alive: Vectors) -> Iterator[None]:
        """Context in which all other channels are removed, weights and all."""
        if self._temporary is None:
            self._temporary = TemporaryMasks(self.masked, self.graph)
        places = removed_places(self.graph, alive)
        touched = [v for v in self.masked.variables if id(v) in places]
        before = [np.array(ops.convert_to_numpy(v)) for v in touched]
        with self._temporary(alive):
            try:
                for variable in touched:
                    zero(variable, places[id(variable)])
                yield
            finally:
                for variable, value in zip(touched, before, strict=True):
                    variable.assign(value)
