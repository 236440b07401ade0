"""One-shot pruning, and the choice of filters that callbacks share with it.

Pruning is a criterion times an allocation times a schedule times an action: the
criterion scores filters, the allocation decides how many of each group go, the
schedule says when, and the action is what happens to them. `prune` does all at
once: score, allocate, remove, repair.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from kprune import allocation as allocations
from kprune.data.needs import require_data
from kprune.data.needs import require_loss
from kprune.latency.allocation.latency import latency_aware
from kprune.masking import is_masked
from kprune.masking import wrap
from kprune.recovery import base as recoveries
from kprune.session import Session

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
        criterion: How much a filter matters: `"l1"`, `"taylor"` or another of
            `kprune.criteria.names()`, an object of `kprune.criteria`, or a
            function `f(group) -> scores (group.size,)`, larger = keep.
        reduce: Share of each cost to remove, counted against the unpruned
            model: `{"macs": 0.5}`, `{"params": 0.4}`, `{"latency": 0.5}` or
            several. Latency is that of operators measured on this machine, or
            on a device whose table `kprune.latency.Latency` is given as
            `allocation`. By default half of the MACs, or what a dictionary as
            `allocation` says.
        allocation: How many filters each group keeps: `"global"`, `"uniform"`
            or another of `kprune.allocation.names()`, a dictionary
            `{group name: share to remove}`, an object of `kprune.allocation`,
            or a function `f(scores) -> priorities`.
        data: Samples for criteria and allocations that run the model: arrays
            `x` or `(x, y)`, a `tf.data.Dataset`, a `keras.utils.PyDataset`, a
            generator, or a list or function of batches or samples. See
            `kprune.data.source.Source`.
        skip: Layers, or names of layers, whose filters must stay. For plain
            models only.
        recover: How to repair what removing filters breaks: `"bn"` measures
            the statistics of batch normalisation again, `"bias"` folds the
            means of removed channels into biases, `"reconstruct"` refits all
            layers behind them by least squares, `"merge"` adds removed
            filters to similar ones. Or an object of `kprune.recovery`, or a
            function `f(session, before)`. Defaults to nothing.

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
    masked = as_masked(model, skip)
    session = Session(masked, data)
    policy = Policy(session, criterion, reduce, allocation)
    policy.check()
    repair = None if recover is None else recoveries.get(recover)
    if repair is not None:
        recoveries.check(repair, session)
    with session.rollback():
        alive = session.settle()
        before = session.snapshot()
        scores = policy.score(alive)
        masks = policy.allocate(scores, alive=alive)
        session.remove(masks)
        if repair is not None:
            repair.repair(session, before)
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


class Policy:
    """A criterion, an allocation and a target: how filters are chosen.

    Args:
        session: The masked model and its samples.
        criterion: See `prune`.
        reduce: See `prune`.
        allocation: See `prune`.

    Raises:
        ValueError: Unknown names, or a share outside (0, 1).

    Example:

    ```python
    session = kprune.Session(masked)
    policy = Policy(session, "l1", {"macs": 0.5}, "global")
    session.remove(policy.choose(0.5, session.settle()))
    policy.removed()  # {"macs": 0.2504, "params": 0.2711}
    ```
    """

    def __init__(
        self,
        session: Session,
        criterion: Any = "l1",
        reduce: Mapping[str, float] | None = None,
        allocation: Any = "global",
    ) -> None:
        self.session = session
        self.criterion = session.criterion(criterion)
        self.allocation = latency_aware(allocations.get(allocation), reduce)
        self._request = allocations.request(
            session, reduce, self.allocation, self.criterion
        )
        self.reduce = self._request.reduce

    def check(self) -> None:
        """Raise what scoring or allocating would raise at the whole target."""
        session, owner = (
            self.session,
            f"Allocation {type(self.allocation).__name__}",
        )
        self.criterion.check(session)
        for other in self.allocation.criteria:
            session.criterion(other).check(session)
        if self.allocation.needs_loss:
            require_loss(session, owner)
        if self.allocation.needs_data:
            require_data(session, owner)
        self.allocation.check(self._request)

    def choose(
        self,
        fraction: float = 1.0,
        alive: Mapping[str, np.ndarray] | None = None,
    ) -> Vectors:
        """Score and allocate.

        Args:
            fraction: Share of the way to the target, from 0 to 1.
            alive: For each group's name booleans: channels to choose from, the
                others count as removed. Defaults to those not removed.

        Returns:
            For each group's name a float32 mask `(size,)` of 0 and 1.
        """
        alive = self.session.alive() if alive is None else alive
        return self.allocate(self.score(alive), fraction, alive)

    def score(self, alive: Mapping[str, np.ndarray] | None = None) -> Vectors:
        """Return the scores of all prunable groups by name."""
        alive = self.session.alive() if alive is None else alive
        progress = self.request(alive=alive).progress()
        return self.session.score(self.criterion, alive, progress)

    def allocate(
        self,
        scores: Vectors,
        fraction: float = 1.0,
        alive: Mapping[str, np.ndarray] | None = None,
    ) -> Vectors:
        """Return the masks that go `fraction` of the way to the target."""
        request = self.request(fraction, alive, scores)
        return allocations.solve(self.allocation, request, self.session)

    def met(
        self,
        fraction: float = 1.0,
        alive: Mapping[str, np.ndarray] | None = None,
    ) -> bool:
        """Return whether `fraction` of the way to the target is done.

        Args:
            fraction: Share of the way, from 0 to 1.
            alive: See `choose`.
        """
        return self.allocation.met(self.request(fraction, alive))

    def removed(self) -> dict[str, float]:
        """Return which share of the unpruned model's costs is gone."""
        return self.request().removed()

    def request(
        self,
        fraction: float = 1.0,
        alive: Mapping[str, np.ndarray] | None = None,
        scores: Vectors | None = None,
    ) -> allocations.Request:
        """Return what the allocation is asked; see `allocate`."""
        return dataclasses.replace(
            self._request,
            fraction=fraction,
            alive=dict(self.session.alive() if alive is None else alive),
            scores=scores or {},
        )
