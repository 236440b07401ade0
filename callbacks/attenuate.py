"""Filter attenuation: weak filters are scaled down, not cut off."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from kprune import factors
from kprune.arguments import choice
from kprune.callbacks._scaling import TARGETS
from kprune.callbacks._scaling import Scaler
from kprune.callbacks.base import PruningCallback
from kprune.criteria.folded import Folded
from kprune.criteria.fpgm import FPGM
from kprune.criteria.l1 import L1
from kprune.criteria.l2 import L2
from kprune.criteria.similarity import Similarity
from kprune.masking import attenuation
from kprune.masking import set_attenuation
from kprune.session import Session

_log = logging.getLogger("kprune")

Vectors = dict[str, np.ndarray]


class AttenuateCallback(PruningCallback):
    """Scales weak filters down while a model trains, and removes them at the end.

    At the beginning of each round all filters are scored afresh, as they would
    be without their attenuation (but at most ten times as large). Those that
    the allocation would remove are scaled by a factor, in place, and go on
    training. A filter that is not picked the next time has returned: its
    attenuation is undone. At the last round of the schedule, by default after
    two thirds of the epochs, the filters that are then the weakest are
    removed, and fine-tuning follows.

    What is scaled is the `target`. In front of a BatchNormalization a scaled
    kernel changes nothing while training, since the batch statistics undo it,
    so by default its scale and offset are scaled. A factor of 0 leaves such a
    filter no gradient at all if a ReLU follows: to let filters return from 0
    use `target="scale"`, as `SoftPruneCallback` does.

    By how much each filter is attenuated is part of the saved model, see
    `kprune.masking.attenuation`; all else follows from the weights and the
    epoch, so that a run that was killed goes on from a checkpoint. One resumed
    in the middle of an epoch begins this epoch again, with its scaling.

    `logs` of each epoch hold `pruned_macs` and `pruned_params`, which are 0
    until filters are removed, `weak_filters`, how many are attenuated, and
    `returned_filters`, how many of those that were are so no more.

    Args:
        criterion: See `kprune.prune`. Defaults to the L1 norm of the filters
            as the target leaves them: `"l1"` with `target="kernel"`, else
            `kprune.criteria.Folded("l1")`.
        reduce: See `kprune.prune`. It may be `{"latency": 0.5}`.
        schedule: Which share of the target is weak in which rounds:
            `"constant"` (all of it in all rounds), `"asymptotic"`, `"linear"`,
            `"polynomial"`, an object of `kprune.schedules`, or a function
            `f(epoch) -> share`. `every` is the period in epochs, `end` the
            epoch that removes.
        allocation: See `kprune.prune`.
        data: See `kprune.prune`.
        recover: How to repair the layers that stay when filters are removed
            in the end. See `kprune.prune`. Defaults to no repair.
        factor: What weak filters are multiplied with: a number, `"constant"`
            (0.5), `"linear"`, `"cosine"`, `"exponential"`, a function
            `f(progress) -> factor`, or an object of `kprune.factors`, which
            can also have a tail that ends at exactly 0, and scale the
            optimizer's slots.
        target: `"bn"`: scale and offset of every BatchNormalization that a
            filter's channel passes, the kernel and bias where it passes none.
            `"scale"`: the same without the offset. `"kernel"`: always the
            kernel and bias; only for training from scratch if there are
            BatchNormalization layers.
        run_dir: See `PruningCallback`.

    Raises:
        ValueError: At construction, an unknown name. When `fit` begins: see
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

    _norm = "l1"

    def __init__(  # noqa: PLR0913  each is a choice of its own
        self,
        criterion: Any = None,
        reduce: Mapping[str, float] | None = None,
        schedule: Any = "constant",
        allocation: Any = "global",
        data: Any = None,
        factor: Any = 0.5,
        target: str = "bn",
        recover: Any = None,
        run_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        self.target = choice(target, type(self).__name__, "target", TARGETS)
        if criterion is None:
            norm = self._norm
            criterion = norm if target == "kernel" else Folded(norm)
        super().__init__(
            criterion, reduce, schedule, allocation, data, recover, run_dir
        )
        self.factor = factors.get(factor)
        self._scaler: Any = None
        self._returned = 0

    def begin(self, session: Session) -> None:
        count = len(self._rounds())
        if self.factor.tail > count:
            raise ValueError(
                f"The tail of {self.factor!r} has more periods than there are "
                f"rounds: {count} of {self.schedule!r}. Shorten the tail or let "
                "the schedule begin earlier, end later or act more often."
            )
        self._scaler = Scaler(session.masked, session.graph, self.target)
        if self._scaler.normed:
            self._warn_of_norms(len(self._scaler.normed))

    def due(self, fraction: float) -> bool:
        self._returned = 0
        return self._epoch in self._rounds()

    def act(self, session: Session, fraction: float) -> None:
        """Scale the weak filters of this round."""
        rounds = self._rounds()
        number, count = rounds.index(self._epoch) + 1, len(rounds)
        factor = self.factor(number / count)
        step = number - (count - self.factor.tail)
        if step <= 0:
            weak = self._choose_weak(fraction)
        else:
            left = self.factor.tail - step
            factor = left / (left + 1) if factor else 0.0
            weak = self._choose_weak() if step == 1 else self._frozen()
        self._scale(weak, factor)

    def finishes(self, epoch: int, last: bool) -> bool:
        end = self._rounds()[-1]
        return (
            epoch == self.params.get("epochs") == end if last else epoch >= end
        )

    def finish(self, session: Session) -> None:
        """Remove the weak filters, unless the target is met already."""
        self._returned = 0
        if self.policy.met():
            return
        weak = self._frozen() if self.factor.tail > 1 else self._choose_weak()
        before = session.snapshot() if self.repairs else None
        self._scale(weak, 0.0)
        _log.info("These filters are removed.")
        self.remove(_kept(weak, session.alive()), before)
        ones = {name: np.ones(len(w), "float32") for name, w in weak.items()}
        set_attenuation(session.masked, ones, session.graph)

    def status(self) -> dict[str, float]:
        weak = self._weak().values()
        return {
            **super().status(),
            "weak_filters": int(sum(w.sum() for w in weak)),
            "returned_filters": self._returned,
        }

    def _warn_of_norms(self, count: int) -> None:
        criterion = self.policy.criterion
        if self.target == "kernel":
            _log.warning(
                "target='kernel' scales kernels in front of BatchNormalization (%d "
                "groups). In training its batch statistics undo that, and kernels "
                "near 0 are blown up by as much as 1 / sqrt(epsilon), which wrecks a "
                "trained model. Use target='scale' or target='bn', unless you train "
                "from scratch.",
                count,
            )
        elif isinstance(criterion, L1 | L2 | FPGM | Similarity):
            _log.warning(
                "Criterion %s looks at kernels, but it is the BatchNormalization "
                "behind them that is attenuated (target='%s'), so it will not "
                "notice. Use kprune.criteria.Folded(...) of it, 'bn_scale' or a "
                "criterion that looks at data.",
                type(criterion).__name__,
                self.target,
            )

    def _rounds(self) -> list[int]:
        return self.schedule.rounds(self.params.get("epochs"))

    def _choose_weak(self, fraction: float = 1.0) -> Vectors:
        """Return which filters are weak now: what allocation would remove."""
        if fraction <= 0 or self.policy.met(fraction):
            return {g.name: np.zeros(g.size, bool) for g in self.session.groups}
        session = self.session
        alive = session.settle()
        undone = {
            name: _undoing(vector)
            for name, vector in attenuation(
                session.masked, session.graph
            ).items()
        }
        with session.trial(weights=self._scaler.scaled(undone)):
            kept = self.policy.choose(fraction, alive)
        return {name: alive[name] & (kept[name] == 0) for name in alive}

    def _frozen(self) -> Vectors:
        """Return the weak filters on record, if removing them is enough."""
        weak = self._weak()
        alive = _kept(weak, self.session.alive())
        kept = {n: m > 0 for n, m in alive.items()}
        return weak if self.policy.met(alive=kept) else self._choose_weak()

    def _weak(self) -> Vectors:
        recorded = attenuation(self.session.masked, self.session.graph)
        return {name: vector < 1 for name, vector in recorded.items()}

    def _scale(self, weak: Vectors, factor: float) -> None:
        masked, graph = self.session.masked, self.session.graph
        before = attenuation(masked, graph)
        self._scaler.scale(
            {
                n: np.where(weak[n], factor, _undoing(v))
                for n, v in before.items()
            },
            self.factor.scale_slots,
        )
        after = {
            n: np.where(weak[n], v * factor, 1.0) for n, v in before.items()
        }
        set_attenuation(masked, after, graph)
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


# Below this, what training has added since counts for more than what is left.
_LEAST = 0.1


def _undoing(attenuated: np.ndarray) -> np.ndarray:
    """Return what to multiply channels with to undo their attenuation.

    Channels that were set to 0 start from there: 1.
    """
    inverse = 1.0 / np.maximum(attenuated, _LEAST)
    return np.where(attenuated > 0, inverse, 1.0)


def _kept(weak: Vectors, alive: Vectors) -> Vectors:
    return {n: (alive[n] & ~weak[n]).astype("float32") for n in weak}
