"""One-shot pruning, and the policy that it shares with callbacks.

Pruning combines a criterion, an allocation, a schedule and an action: the criterion
scores filters, the allocation decides how many each group loses, the schedule decides
when, and the action is what happens to them. `prune` does everything at once: score,
allocate, remove, repair.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any
from typing import NamedTuple

import keras
import numpy as np

from kprune import allocation as allocations
from kprune import criteria
from kprune.allocation import Global
from kprune.allocation._outer import OuterAllocation
from kprune.data.expectations import warn_unexpected
from kprune.data.needs import require_data
from kprune.data.needs import require_loss
from kprune.latency.allocation.ram import device_aware
from kprune.masking import is_masked
from kprune.masking import wrap
from kprune.recovery import base as recoveries
from kprune.registry import Registry
from kprune.runs import record as runs
from kprune.session import Session

Vectors = dict[str, np.ndarray]


class Choice(NamedTuple):
    """A combination of criterion, allocation and recovery. See `prune`."""

    criterion: Any
    allocation: Any
    recover: Any


WITH_DATA = Choice("reconstruction", "output_error", "reconstruct")
WITHOUT_DATA = Choice("l1", "global", "synthetic")
OTHERS = Choice("l1", "global", [])


def prune(  # noqa: PLR0913  each is a choice of its own
    model: keras.Model,
    criterion: Any = None,
    reduce: Mapping[str, float] | None = None,
    allocation: Any = None,
    data: Any = None,
    skip: Iterable[Any] | None = None,
    recover: Any = None,
    run_dir: str | os.PathLike[str] | None = None,
) -> keras.Model:
    """Remove filters in one shot, without training.

    The weights and optimizer slots of removed filters are set to 0. The kept layers can
    be repaired, for which no labels are needed. Arguments that are not set get defaults
    that match the others:

    | set | criterion, allocation, recover |
    |---|---|
    | only `data` | `"reconstruction"`, `"output_error"`, `"reconstruct"` |
    | nothing | `"l1"`, `"global"`, `"synthetic"` |
    | `"reconstruction"` or `"output_error"` | as with only `data` |
    | another criterion or allocation | `"l1"`, `"global"`, `[]` |

    `Latency(...)`, `Ram(...)` and `Rounds(...)` count as the allocation inside, and as
    not set if it is left open; so does `Global(round_to=8)`, which only rounds. If both
    are set, the criterion selects the row. If no dense or convolutional layer reads a
    prunable group, there is nothing to refit, and `data` alone gives the same defaults
    as nothing.

    Args:
        model: A plain model, which is not changed, or one made by `kprune.wrap`, which
            is pruned in place. Removed filters stay removed.
        criterion: The criterion that scores filters: `"l1"`, `"taylor"` or another of
            `kprune.criteria.names()`, an object of `kprune.criteria`, or a function
            `f(group)` that returns scores of shape `(group.size,)`. Filters with
            larger scores are more important.
        reduce: Share of each cost to remove, relative to the unpruned model:
            `{"macs": 0.5}`, `{"params": 0.4}`, `{"latency": 0.5}` or several. Latency
            is the sum over operators measured on this machine, or on the device whose
            table is given with `allocation=kprune.latency.Latency(...)`. Defaults to
            half of the MACs, or to no target if `allocation` is a dictionary.
        allocation: How many filters each group keeps: `"global"`, `"uniform"` or
            another of `kprune.allocation.names()`, a dictionary
            `{group name: share to remove}`, an object of `kprune.allocation`, or a
            function `f(scores) -> priorities`.
        data: Samples for criteria and allocations that run the model: arrays `x` or
            `(x, y)`, a `tf.data.Dataset`, a `keras.utils.PyDataset`, a generator, a
            list of batches or samples, or a function that returns them. See
            `kprune.data.source.Source`.
        skip: Layers, or names of layers, whose filters must stay. For plain models
            only.
        recover: How to repair the kept layers. `"bn"` re-estimates the statistics of
            batch normalisation, `"bias"` moves the means of removed channels into
            biases, `"reconstruct"` refits the layers that read them by least squares,
            `"merge"` merges removed filters into similar ones, `"synthetic"` refits
            layers without data, and `"mimic"` trains the model without labels, to
            reproduce the outputs of the unpruned model. Or an object of
            `kprune.recovery`, a function `f(session, before)`, or a list of these,
            which are applied in order; `[]` repairs nothing.
        run_dir: Folder in which to create a new folder for this run, with the
            settings, decisions, the models, and a report. See `docs/runs.md`.

    Returns:
        The masked model, compiled if `model` was. `kprune.rebuild` turns it into the
        compact model.

    Raises:
        ValueError: If no filter can be removed, the target is out of reach, or the
            criterion lacks data or a loss. The message says what to do.

    Example:

    ```python
    masked = kprune.prune(model, reduce={"macs": 0.5}, data=x_train[:1024])
    compact = kprune.rebuild(masked)
    ```
    """
    masked = as_masked(model, skip)
    session = Session(masked, data)
    source = session.source
    if masked is not model and source is not None and source.arrays is not None:
        warn_unexpected(model, source.arrays[0])
    chosen = choose(session, criterion, allocation, recover)
    policy = Policy(session, chosen.criterion, reduce, chosen.allocation)
    policy.check()
    recoveries.check(chosen.recover, session)
    given = {"criterion": criterion, "reduce": reduce, "allocation": allocation}
    given |= {"skip": skip, "recover": recover}
    name = chosen.criterion
    method = name if isinstance(name, str) else type(policy.criterion).__name__
    asked = policy.asked(method, "kprune.prune(model", given, chosen.recover)
    record = runs.start(run_dir, session, asked, model, measures=True)
    with record.failing(), session.rollback():
        alive = session.settle()
        before = session.snapshot()
        scores = policy.score(alive)
        masks = policy.allocate(scores, alive=alive)
        session.remove(masks)
        recoveries.repair(session, before, chosen.recover)
    record.decided(0, policy.scored)
    record.finish()
    return masked


def choose(
    session: Session,
    criterion: Any = None,
    allocation: Any = None,
    recover: Any = None,
    alone: Choice = WITHOUT_DATA,
) -> Choice:
    """Return the given parts, with matching defaults for those that are None.

    Args:
        session: The masked model and its samples.
        criterion: See `prune`, or None.
        allocation: See `prune`, or None.
        recover: See `prune`, or None.
        alone: Defaults if neither criterion nor allocation is given, and there are no
            samples.
    """
    outer = allocation if isinstance(allocation, OuterAllocation) else None
    inner = allocation if outer is None else outer.inner
    if _only_rounds(inner):
        inner = None
    if criterion is not None:
        best = _is(criteria.base.registry, criterion, WITH_DATA.criterion)
        row = WITH_DATA if best else OTHERS
    elif inner is not None:
        best = _is(allocations.base.registry, inner, WITH_DATA.allocation)
        row = WITH_DATA if best else OTHERS
    elif session.source is None:
        row = alone
    else:
        refits = recoveries.get(WITH_DATA.recover).applies(session)
        row = WITH_DATA if refits else WITHOUT_DATA
    if outer is not None and outer.inner is None:
        allocation = outer.over(allocations.get(row.allocation))
    given = Choice(criterion, allocation, recover)
    return Choice(
        *(r if g is None else g for g, r in zip(given, row, strict=True))
    )


def _only_rounds(allocation: Any) -> bool:
    """Return whether an allocation differs from the default by rounding alone."""
    if not isinstance(allocation, Global) or allocation.round_to == 1:
        return False
    plain = {**allocation.get_config(), "round_to": 1}
    return plain == Global().get_config()


def _is(registry: Registry, part: Any, name: str) -> bool:
    """Return whether a part is the one registered under a name."""
    return part == name or type(part) is registry.factory(name)


def as_masked(model: keras.Model, skip: Iterable[Any] | None) -> keras.Model:
    """Return a plain model wrapped, or a wrapped model unchanged.

    Raises:
        ValueError: If the model is wrapped already, but there are layers to skip.
    """
    if not is_masked(model, "prune()"):
        return wrap(model, skip)
    if skip is not None:
        raise ValueError(
            f"Model '{model.name}' is wrapped already, so `skip` has no effect. "
            "Pass it to kprune.wrap(model, skip=...), or prune the plain model."
        )
    return model


class Policy:
    """A criterion, an allocation and a target, which together choose filters.

    Args:
        session: The masked model and its samples.
        criterion: See `prune`.
        reduce: See `prune`.
        allocation: See `prune`.

    Raises:
        ValueError: If a name is unknown, or a share is outside (0, 1).

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
        self.allocation = device_aware(allocations.get(allocation), reduce)
        self._request = allocations.request(
            session, reduce, self.allocation, self.criterion
        )
        self.reduce = self._request.reduce
        self.scored: tuple[Mapping[str, np.ndarray], Vectors] | None = None
        """What was alive when filters were scored last, and the scores."""

    def asked(
        self, method: str, call: str, given: Mapping[str, Any], recover: Any
    ) -> runs.Asked:
        """Return what a record says of this policy.

        Args:
            method: See `kprune.runs.record.Asked`.
            call: See there.
            given: See there, `arguments`.
            recover: How layers are repaired.
        """
        parts = {"criterion": self.criterion, "reduce": dict(self.reduce)}
        parts |= {"allocation": self.allocation, "recover": recover}
        return runs.Asked(method, call, given, parts)

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
            fraction: Share of the target to reach, from 0 to 1.
            alive: Group name -> booleans of shape `(size,)`: channels to choose from;
                others count as removed. Defaults to all channels not removed.

        Returns:
            Group name -> float32 mask of shape `(size,)`, of 0 and 1.
        """
        alive = self.session.alive() if alive is None else alive
        return self.allocate(self.score(alive), fraction, alive)

    def score(self, alive: Mapping[str, np.ndarray] | None = None) -> Vectors:
        """Return the scores of all prunable groups by name."""
        alive = self.session.alive() if alive is None else alive
        progress = self.request(alive=alive).progress()
        scores = self.session.score(self.criterion, alive, progress)
        self.scored = (alive, scores)
        return scores

    def allocate(
        self,
        scores: Vectors,
        fraction: float = 1.0,
        alive: Mapping[str, np.ndarray] | None = None,
    ) -> Vectors:
        """Return masks that reach `fraction` of the target."""
        request = self.request(fraction, alive, scores)
        return allocations.solve(self.allocation, request, self.session)

    def met(
        self,
        fraction: float = 1.0,
        alive: Mapping[str, np.ndarray] | None = None,
    ) -> bool:
        """Return whether `fraction` of the target is reached.

        Args:
            fraction: Share of the target, from 0 to 1.
            alive: See `choose`.
        """
        return self.allocation.met(self.request(fraction, alive))

    def removed(self) -> dict[str, float]:
        """Return the removed share of each cost of the unpruned model."""
        return self.request().removed()

    def request(
        self,
        fraction: float = 1.0,
        alive: Mapping[str, np.ndarray] | None = None,
        scores: Vectors | None = None,
    ) -> allocations.Request:
        """Return the request for the allocation. See `allocate`."""
        return dataclasses.replace(
            self._request,
            fraction=fraction,
            alive=dict(self.session.alive() if alive is None else alive),
            scores=scores or {},
        )
