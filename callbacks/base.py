"""The one way in which callbacks act: score, allocate, act."""

from __future__ import annotations

import abc
import logging
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from kprune import schedules
from kprune.data.source import as_source
from kprune.pruning import Plan

_log = logging.getLogger("kprune")


class PruningCallback(keras.callbacks.Callback, abc.ABC):
    """Scores, allocates and acts at the beginning of scheduled epochs.

    Acting before an epoch trains and validates what was decided. The callback
    keeps no state of its own: how far pruning has come is read from the masks,
    which are weights of the model, so that a run that was killed continues
    from any checkpoint of the weights.

    A subclass says when it is due, which channels it may choose from, and what
    it does to those it chose.

    Args:
        criterion: As of `kprune.prune`.
        reduce: As of `kprune.prune`.
        schedule: `"one_shot"`, `"linear"`, `"polynomial"`, an object of
            `kprune.schedules`, or a function `f(epoch) -> share of the
            target`. By default cubic over the first two thirds of the epochs.
        allocation: As of `kprune.prune`.
        data: As of `kprune.prune`.
    """

    def __init__(
        self,
        criterion: Any = "l1",
        reduce: Mapping[str, float] | None = None,
        schedule: Any = None,
        allocation: Any = "global",
        data: Any = None,
    ) -> None:
        super().__init__()
        self.criterion = criterion
        self.reduce = reduce
        self.schedule = schedules.get(schedule)
        self.allocation = allocation
        # Kept for all epochs: a generator yields once only.
        self.data = None if data is None else as_source(data)
        self.plan: Plan | None = None

    @abc.abstractmethod
    def due(self, plan: Plan, fraction: float) -> bool:
        """Return whether to act, given the share of the target now wanted."""

    @abc.abstractmethod
    def candidates(self, plan: Plan) -> dict[str, np.ndarray]:
        """Return, for each group's name, booleans: channels to choose from.

        Called right before scoring. The others count as removed.
        """

    @abc.abstractmethod
    def act(self, plan: Plan, masks: dict[str, np.ndarray]) -> None:
        """Carry out what was decided: masks of 0 (chosen) and 1 by group name."""

    def on_train_begin(self, logs: Any = None) -> None:
        self.plan = Plan(
            self.model, self.criterion, self.reduce, self.allocation, self.data
        )
        self.plan.check()
        self.schedule = self.schedule.toward(self.plan.reduce)
        if self.params.get("verbose", 0):
            print(self.plan.graph.coverage)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        plan = self._plan()
        fraction = self.schedule.fraction(epoch, self.params.get("epochs"))
        if fraction <= 0 or not self.due(plan, fraction):
            return
        self.act(plan, self.decide(plan, fraction, self.candidates(plan)))

    def decide(
        self, plan: Plan, fraction: float, alive: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Score and allocate: masks that go `fraction` of the way."""
        return plan.allocate(plan.score(alive), fraction, alive)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if logs is not None:
            removed = self._plan().removed()
            logs.update({f"pruned_{key}": removed[key] for key in removed})

    def on_train_end(self, logs: Any = None) -> None:
        plan = self._plan()
        if not plan.met():
            shares = plan.removed().items()
            removed = ", ".join(
                f"{share:.1%} of the {key}" for key, share in shares
            )
            _log.warning(
                "Training ended before the pruning target was reached: %s are gone, "
                "the target is reduce=%s with allocation %s. Either it stopped before "
                "the schedule did, or a callback such as EarlyStopping restored "
                "weights from before. Let %r end earlier, or let EarlyStopping begin "
                "later (start_from_epoch).",
                removed,
                plan.reduce,
                type(plan.allocation).__name__,
                self.schedule,
            )

    def _plan(self) -> Plan:
        if self.plan is None:
            raise RuntimeError(
                f"{type(self).__name__} acts inside `fit`; pass it as "
                "fit(..., callbacks=[...])."
            )
        return self.plan
