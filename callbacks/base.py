"""The base class of pruning callbacks."""

from __future__ import annotations

import abc
import dataclasses
import logging
import os
import re
from collections.abc import Mapping
from typing import Any
from typing import ClassVar

import keras
import numpy as np

from kprune import schedules
from kprune.callbacks._fitting import BestCheckpoints
from kprune.callbacks._fitting import companions
from kprune.callbacks._fitting import outside_fit
from kprune.callbacks._fitting import require_fit
from kprune.callbacks._fitting import restoring_after
from kprune.callbacks._fitting import undo_interrupted
from kprune.callbacks._fitting import warn_of_order
from kprune.callbacks._fitting import warn_of_restoring
from kprune.data.source import as_source
from kprune.masking import trained_part
from kprune.masking.slots import check_optimizer
from kprune.masking.state import WeightSnapshot
from kprune.parts import Part
from kprune.pruning import OTHERS
from kprune.pruning import Policy
from kprune.pruning import choose
from kprune.recovery import base as recoveries
from kprune.runs import record as runs
from kprune.runs.measure import not_finite
from kprune.session import Session

_log = logging.getLogger("kprune")


class PruningCallback(keras.callbacks.Callback, Part, abc.ABC):
    """Base class of callbacks that act on filters at the beginning of scheduled epochs.

    Because it acts before an epoch, this epoch trains and validates the result. The
    callback has no state of its own: the progress of pruning is read from the masks,
    which are weights of the model. So an interrupted run continues from any checkpoint
    of the weights.

    A subclass implements `act`, and removes filters with `remove`, which repairs the
    kept layers. It also implements `finishes` and `finish` if it ends with another
    action than it repeats, for example removing filters that were only scaled down, and
    extends `status` if it adds to `logs`.

    Args:
        criterion: See `kprune.prune`.
        reduce: See `kprune.prune`.
        schedule: `"one_shot"`, `"linear"`, `"polynomial"`, an object of
            `kprune.schedules`, or a function `f(epoch) -> share of the
            target`. Defaults to cubic over the first two thirds of the epochs.
        allocation: See `kprune.prune`.
        data: See `kprune.prune`.
        recover: How to repair the kept layers every time filters were removed, before
            training continues. See `kprune.prune`. The optimizer's slots stay as
            they are: repaired layers have nearly the same outputs, and so nearly the
            same gradients.
        run_dir: Folder in which each `fit` creates a new folder for its run, with the
            settings, decisions, every epoch, the models, and a report. See
            `docs/runs.md`.

    Without `data`, the defaults are `"l1"`, `"global"` and no repair; with `data`, they
    are those of `kprune.prune`.

    Example:

    ```python
    class DryRunCallback(PruningCallback):
        def act(self, session, fraction):
            for name, mask in self.choose(fraction).items():
                print(name, int((mask == 0).sum()))
    ```
    """

    unsaved: ClassVar[tuple[str, ...]] = ("data", "run_dir")

    def __init__(
        self,
        criterion: Any = None,
        reduce: Mapping[str, float] | None = None,
        schedule: Any = None,
        allocation: Any = None,
        data: Any = None,
        recover: Any = None,
        run_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__()
        self.criterion = criterion
        self.reduce = reduce
        self.schedule = schedules.get(schedule)
        self.allocation = allocation
        # Shared by all epochs, because a generator can be read only once.
        self.data = None if data is None else as_source(data)
        self.recover = recover
        if recover is not None:
            recoveries.get(recover)
        self.run_dir = run_dir
        self.method = _words(type(self).__name__.removesuffix("Callback"))
        self._record: runs.Record | runs.Silence = runs.Silence()
        self._session: Session | None = None
        self._policy: Policy | None = None
        self._repair = recoveries.get([])
        self._epoch = -1
        self._met: dict[int, bool] = {}
        self._checkpoints = BestCheckpoints([])
        self._restoring: list[keras.callbacks.EarlyStopping] = []

    @property
    def session(self) -> Session:
        """The model in training, and the samples."""
        if self._session is None:
            raise outside_fit(self)
        return self._session

    @property
    def policy(self) -> Policy:
        """The policy that chooses filters."""
        if self._policy is None:
            raise outside_fit(self)
        return self._policy

    @property
    def repairs(self) -> bool:
        """Whether layers are repaired after filters are removed."""
        return bool(self._repair)

    @property
    def _last_met(self) -> bool:
        return next(reversed(self._met.values()))

    def begin(self, session: Session) -> None:
        """Prepare for training. `session` and `policy` are available."""
        return None

    def due(self, fraction: float) -> bool:
        """Return whether to act before this epoch.

        Args:
            fraction: Share of the target that the schedule requires now.
        """
        return fraction > 0 and not self.policy.met(fraction)

    @abc.abstractmethod
    def act(self, session: Session, fraction: float) -> None:
        """Act on the filters, usually on those that `choose(fraction)` selects.

        Args:
            session: The model in training, and the samples.
            fraction: Share of the target that the schedule requires now.
        """

    def finishes(self, epoch: int, last: bool) -> bool:
        """Return whether to call `finish` now instead of `act`.

        Args:
            epoch: The epoch that is about to begin.
            last: Whether training is over, so that it will not begin.
        """
        return False

    def finish(self, session: Session) -> None:
        """Complete the pruning. Further calls must do nothing."""
        return None

    def after_epoch(self, session: Session) -> None:
        """Act at the end of an epoch."""
        return None

    def status(self) -> dict[str, float]:
        """Return the entries for `logs` of an epoch: the removed share of each cost."""
        removed = self.policy.removed()
        return {f"pruned_{key}": removed[key] for key in removed}

    def remove(
        self,
        masks: Mapping[str, np.ndarray],
        before: WeightSnapshot | None = None,
        merged: WeightSnapshot | None = None,
    ) -> None:
        """Remove filters permanently, and repair the kept layers.

        Args:
            masks: Group name -> vector of shape `(size,)`, 0 = removed.
            before: Weights whose outputs the repair restores. Defaults to the
                current ones.
            merged: Weights after filters were merged into others, if some were. See
                `kprune.recovery.base.repair`.
        """
        session = self.session
        if not self.repairs:
            session.remove(masks)
            return
        before = before or session.snapshot()
        with session.rollback():
            session.remove(masks)
            recoveries.repair(session, before, self._repair, merged)

    def choose(self, fraction: float = 1.0) -> dict[str, np.ndarray]:
        """Score and allocate.

        Args:
            fraction: Share of the target to reach.

        Returns:
            Group name -> mask of shape `(size,)`, 0 for the chosen filters and for
            those removed already.
        """
        return self.policy.choose(fraction, self.session.settle())

    def on_train_begin(self, logs: Any = None) -> None:
        require_fit(self)
        check_optimizer(self.model.optimizer)
        undo_interrupted(self)
        self._session = session = Session(
            trained_part(self.model), self.data, self.model.optimizer
        )
        chosen = choose(
            session, self.criterion, self.allocation, self.recover, OTHERS
        )
        self._policy = Policy(
            session, chosen.criterion, self.reduce, chosen.allocation
        )
        self._policy.check()
        self._repair = recoveries.get(chosen.recover)
        recoveries.check(self._repair, session)
        self.schedule = self.schedule.toward(self._policy.reduce)
        self._epoch = -1
        if self.params.get("verbose", 0):
            print(session.graph.coverage)
        self.begin(session)
        self._look_around()
        self._record = runs.start(self.run_dir, session, self._asked())

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        session = self.session
        self._checkpoints.look(self._last_met)
        self._epoch = epoch
        fraction = self.schedule.fraction(epoch, self.params.get("epochs"))
        with self._record.failing():
            if self.finishes(epoch, last=False):
                self.finish(session)
            elif self.due(fraction):
                self.act(session, fraction)
        self._record.decided(epoch, self.policy.scored)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.after_epoch(self.session)
        self._met[epoch] = self.policy.met()
        if logs is not None:
            logs.update(self.status())
        self._record.epoch(epoch, logs, self.model)

    def on_train_end(self, logs: Any = None) -> None:
        with self._record.failing():
            self._end()
        self._record.decided(self._epoch + 1, self.policy.scored)
        self._record.finish()

    def _end(self) -> None:
        session, policy = self.session, self.policy
        if self._epoch < 0:
            return  # Nothing was trained: fit(epochs=0), or a completed run.
        lost = not_finite(session.masked)
        if lost is not None:
            _log.warning("%s", lost)
            return
        self._checkpoints.look(self._last_met)
        self._checkpoints.warn()
        if self.finishes(self._epoch + 1, last=True):
            self.finish(session)
        # On JAX, |w| has the gradient 1 at 0, so an L1 penalty changes removed weights
        # behind their masks.
        session.settle()
        if not policy.met():
            shares = policy.removed().items()
            removed = ", ".join(
                f"{share:.1%} of the {key}" for key, share in shares
            )
            _log.warning(
                "Training ended before the pruning target was reached: %s are removed, "
                "the target is reduce=%s with allocation %s. Either training ended "
                "before the schedule, or a callback such as EarlyStopping restored "
                "earlier weights. Make %r end earlier, or EarlyStopping begin later "
                "(start_from_epoch).",
                removed,
                dict(policy.reduce),
                type(policy.allocation).__name__,
                self.schedule,
            )
        else:
            warn_of_restoring(self, self._restoring, self._met)

    def _asked(self) -> runs.Asked:
        """Return the settings of this training for its record."""
        given = {k: v for k, v in self._given.items() if k not in self.unsaved}
        call = f"kprune.callbacks.{type(self).__name__}("
        asked = self.policy.asked(self.method, call, given, self._repair)
        more = {"schedule": self.schedule, "epochs": self.params.get("epochs")}
        return dataclasses.replace(asked, parts={**asked.parts, **more})

    def _look_around(self) -> None:
        """Warn about other callbacks that will miss what this one does."""
        others = companions(self)
        warn_of_order(
            self, others, (f"pruned_{key}" for key in self.policy.removed())
        )
        self._met = {-1: self.policy.met()}
        self._checkpoints = BestCheckpoints(others)
        self._restoring = restoring_after(self, others)


def _words(name: str) -> str:
    """Return the name of a class as lowercase words joined by hyphens."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()
