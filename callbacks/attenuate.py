"""Filter attenuation: weak filters are scaled down, not cut off."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from kprune import factors
from kprune.callbacks.base import PruningCallback
from kprune.callbacks.scaling import Scaler
from kprune.callbacks.scaling import check_target
from kprune.criteria import FPGM
from kprune.criteria import L1
from kprune.criteria import L2
from kprune.criteria import Folded
from kprune.masking import attenuation
from kprune.masking import set_attenuation
from kprune.pruning import Plan

_log = logging.getLogger("kprune")

Vectors = dict[str, np.ndarray]


class AttenuateCallback(PruningCallback):
    """Scales weak filters down while a model trains, and removes them at the end.

    At the beginning of each round all filters are scored afresh. Those that
    the allocation would remove are scaled by a factor, in place, and go on
    training; a filter that is not picked the next time has returned. At the
    last round of the schedule, by default after two thirds of the epochs, the
    filters that are then the weakest are removed, and fine-tuning follows.

    What is scaled is the `target`. In front of a BatchNormalization a scaled
    kernel changes nothing while training, since the batch statistics undo it,
    so by default its scale and offset are scaled. A factor of 0 leaves such a
    filter no gradient at all if a ReLU follows: to let filters return from 0
    use `target="kernel"`, as `SoftPruneCallback` does.

    By how much each filter is attenuated is part of the saved model, see
    `kprune.masking.attenuation`; all else follows from the weights and the
    epoch, so that a run that was killed goes on from a checkpoint. One resumed
    in the middle of an epoch begins this epoch anew, with its scaling.

    `logs` of each epoch hold `pruned_macs` and `pruned_params`, which are 0
    until filters are removed, `weak_filters`, how many are attenuated, and
    `returned_filters`, how many of those that were are so no more.

    Args:
        criterion: As of `kprune.prune`. By default the L1 norm of the filters
            as the target leaves them: `kprune.criteria.Folded("l1")` with
            `target="bn"`, else `"l1"`.
        reduce: As of `kprune.prune`, `{"latency": 0.5}` included.
        schedule: Which share of the target is weak in which rounds:
            `"constant"` (all of it in all rounds), `"asymptotic"`, `"linear"`,
            `"polynomial"`, an object of `kprune.schedules`, or a function
            `f(epoch) -> share`. `every` is the period in epochs, `end` the
            epoch that removes.
        allocation: As of `kprune.prune`.
        data: As of `kprune.prune`.
        factor: What weak filters are multiplied with: a number, `"constant"`
            (0.5), `"linear"`, `"cosine"`, `"exponential"`, a function
            `f(progress) -> factor`, or an object of `kprune.factors`, which
            can also have a tail that ends at exactly 0, and scale the
            optimizer's slots.
        target: `"bn"`: scale and offset of every BatchNormalization that a
            filter's channel passes, the kernel and bias where it passes none.
            `"kernel"`: always the kernel and bias.

    Raises:
        ValueError: At construction, an unknown name. When `fit` begins: as of
            `PruneCallback`, or the tail has more periods than the schedule.

    Example:

    ```python
    masked = kprune.wrap(model)
    masked.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    masked.fit(train, epochs=30, callbacks=[
        AttenuateCallback(
            reduce={"macs": 0.5},
            schedule=kprune.schedules.Constant(end=20, every=1),
            factor=kprune.factors.Constant(0.5, tail=5),
        )
    ])
    compact = kprune.rebuild(masked)
    ```

    After Mousa-Pasandi et al. (ICIP 2020, arXiv 2002.03299), who show that it
    improves on removing at once under several criteria.
    """

    def __init__(
        self,
        criterion: Any = None,
        reduce: Mapping[str, float] | None = None,
        schedule: Any = "constant",
        allocation: Any = "global",
        data: Any = None,
        factor: Any = 0.5,
        target: str = "bn",
    ) -> None:
        self.target = check_target(target)
        if criterion is None:
            criterion = Folded("l1") if target == "bn" else "l1"
        super().__init__(criterion, reduce, schedule, allocation, data)
        self.factor = factors.get(factor)
        self._scaler: Scaler | None = None
        self._epoch = -1
        self._returned = 0

    def on_train_begin(self, logs: Any = None) -> None:
        super().on_train_begin(logs)
        plan = self._plan()
        count = len(self._rounds())
        if self.factor.tail > count:
            raise ValueError(
                f"The tail of {self.factor!r} has more periods than there are "
                f"rounds: {count} of {self.schedule!r}. Shorten the tail or let "
                "the schedule begin earlier, end later or act more often."
            )
        self._scaler = Scaler(self.model, plan.graph, self.target)
        if self._scaler.normed and isinstance(plan.criterion, L1 | L2 | FPGM):
            _log.warning(
                "Criterion %s looks at kernels, but it is the BatchNormalization "
                "behind them that is attenuated (target='bn'), so it will not "
                "notice. Use kprune.criteria.Folded(...) of it, 'bn_scale' or a "
                "criterion that looks at data, or target='kernel'.",
                type(plan.criterion).__name__,
            )

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        plan = self._plan()
        self._epoch = epoch
        self._returned = 0
        rounds = self._rounds()
        if epoch >= rounds[-1]:
            self._finish(plan)
        elif epoch in rounds:
            self._attenuate(plan, rounds.index(epoch) + 1, len(rounds))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        super().on_epoch_end(epoch, logs)
        if logs is not None:
            weak = self._weak(self._plan()).values()
            logs["weak_filters"] = int(sum(w.sum() for w in weak))
            logs["returned_filters"] = self._returned

    def on_train_end(self, logs: Any = None) -> None:
        plan = self._plan()
        after = self._epoch + 1
        if after == self.params.get("epochs") == self._rounds()[-1]:
            self._finish(plan)
        plan.settle()
        super().on_train_end(logs)

    def due(self, plan: Plan, fraction: float) -> bool:
        return fraction > 0 and not plan.met(fraction)

    def candidates(self, plan: Plan) -> Vectors:
        return plan.settle()

    def act(self, plan: Plan, masks: Vectors) -> None:
        plan.remove(masks)

    def _rounds(self) -> list[int]:
        return self.schedule.rounds(self.params.get("epochs"))

    def _attenuate(self, plan: Plan, number: int, count: int) -> None:
        """Scale the weak filters of round `number` of `count`."""
        factor = self.factor(number / count)
        step = number - (count - self.factor.tail)
        if step <= 0:
            fraction = self.schedule.fraction(
                self._epoch, self.params.get("epochs")
            )
            weak = self._choose(plan, fraction)
        else:
            left = self.factor.tail - step
            factor = left / (left + 1) if factor else 0.0
            weak = self._choose(plan) if step == 1 else self._frozen(plan)
        self._scale(plan, weak, factor)

    def _finish(self, plan: Plan) -> None:
        """Remove the weak filters, unless the target is met already."""
        if plan.met():
            return
        weak = (
            self._frozen(plan) if self.factor.tail > 1 else self._choose(plan)
        )
        self._scale(plan, weak, 0.0)
        _log.info("These filters are removed.")
        self.act(plan, _kept(weak, plan.alive()))
        ones = {name: np.ones(len(w), "float32") for name, w in weak.items()}
        set_attenuation(plan.masked, ones, plan.graph)

    def _choose(self, plan: Plan, fraction: float = 1.0) -> Vectors:
        """Return which filters are weak now: what allocation would remove."""
        if not self.due(plan, fraction):
            return {g.name: np.zeros(g.size, bool) for g in plan.graph.prunable}
        alive = self.candidates(plan)
        kept = self.decide(plan, fraction, alive)
        return {name: alive[name] & (kept[name] == 0) for name in alive}

    def _frozen(self, plan: Plan) -> Vectors:
        """Return the weak filters on record, if removing them is enough."""
        weak = self._weak(plan)
        kept = {n: m > 0 for n, m in _kept(weak, plan.alive()).items()}
        enough = plan.met(alive=kept)
        return weak if enough else self._choose(plan)

    def _weak(self, plan: Plan) -> Vectors:
        recorded = attenuation(plan.masked, plan.graph)
        return {name: vector < 1 for name, vector in recorded.items()}

    def _scale(self, plan: Plan, weak: Vectors, factor: float) -> None:
        if self._scaler is None:
            raise RuntimeError(
                "The callback's `on_train_begin` was not called."
            )
        before = attenuation(plan.masked, plan.graph)
        self._scaler.scale(weak, factor, self.factor.scale_slots)
        after = {
            n: np.where(weak[n], v * factor, 1.0) for n, v in before.items()
        }
        set_attenuation(plan.masked, after, plan.graph)
        self._returned = sum(
            int(((v < 1) & ~weak[n]).sum()) for n, v in before.items()
        )
        _log.info(
            "Epoch %d: %d filters are scaled by %.3g, %d have returned.",
            self._epoch + 1,
            sum(int(w.sum()) for w in weak.values()),
            factor,
            self._returned,
        )


def _kept(weak: Vectors, alive: Vectors) -> Vectors:
    return {n: (alive[n] & ~weak[n]).astype("float32") for n in weak}
