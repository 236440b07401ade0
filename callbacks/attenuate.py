"""Filter attenuation: weak filters are scaled down instead of removed."""

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

    At the beginning of each round, all filters are scored as if they were not
    attenuated (but at most ten times larger than they are). Filters that the
    allocation would remove are multiplied by a factor in place, and continue to
    train. If a filter is not selected again, it has returned: its attenuation is
    undone. At the last round of the schedule, by default after two thirds of the
    epochs, the weakest filters are removed, and fine-tuning follows.

    `target` selects the weights to scale. Scaling a kernel in front of a
    BatchNormalization has no effect in training, because the batch statistics undo
    it; so by default scale and offset of the BatchNormalization are scaled, of the
    last one where several follow. With a factor of 0, such a filter gets no gradient
    if a ReLU follows: to let filters return from 0, use `target="scale"`, as
    `SoftPruneCallback` does. Where the BatchNormalization has no scale
    (`scale=False`), the weights that read the filter's channel are scaled instead.
    Most criteria do not see these, so that filters do not return by them: use one
    that needs data, such as `"taylor"`. Gates, such as those of
    squeeze-and-excitation, are left alone.

    The attenuation of each filter is saved with the model (see
    `kprune.masking.attenuation`). Everything else follows from the weights and the
    epoch, so that an interrupted run continues from a checkpoint. A run resumed in the
    middle of an epoch starts this epoch again, with its scaling.

    The `logs` of each epoch contain `pruned_macs` and `pruned_params`, which are 0
    until filters are removed, `weak_filters`, the number of attenuated filters, and
    `returned_filters`, the number of filters whose attenuation was undone.

    Args:
        criterion: See `kprune.prune`. Defaults to the L1 norm of the filters that
            remains with this target: `"l1"` with `target="kernel"`, else
            `kprune.criteria.Folded("l1")`.
        reduce: See `kprune.prune`. It may be `{"latency": 0.5}`.
        schedule: Share of the target that is weak in each round: `"constant"` (all
            of it in all rounds), `"asymptotic"`, `"linear"`, `"polynomial"`, an
            object of `kprune.schedules`, or a function `f(epoch) -> share`. `every`
            is the period in epochs, `end` the epoch that removes filters.
        allocation: See `kprune.prune`.
        data: See `kprune.prune`.
        recover: How to repair the kept layers when filters are removed at the end.
            See `kprune.prune`. Defaults to no repair.
        factor: Factor for weak filters: a number, `"constant"` (0.5), `"linear"`,
            `"cosine"`, `"exponential"`, a function `f(progress) -> factor`, or an
            object of `kprune.factors`, which can also end in a tail at exactly 0,
            and scale the optimizer's slots.
        target: `"bn"`: scale and offset of the last BatchNormalization that a
            filter's channel passes, or kernel and bias if it passes none. `"scale"`:
            the same without the offset. `"kernel"`: always kernel and bias; with
            BatchNormalization layers, use it only to train from scratch.
        run_dir: See `PruningCallback`.

    Raises:
        ValueError: At construction, if a name is unknown. When `fit` begins, if the
            tail has more periods than the schedule; see also `PruneCallback`.

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

    After Mousa-Pasandi et al. (ICIP 2020, arXiv 2002.03299), who show that it is
    better than immediate removal with several criteria.
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
                f"The tail of {self.factor!r} has more periods than "
                f"{self.schedule!r} has rounds ({count}). Shorten the tail, or make "
                "the schedule begin earlier, end later or act more often."
            )
        self._scaler = Scaler(session.masked, session.graph, self.target)
        if self._scaler.normed:
            self._warn_of_norms(len(self._scaler.normed))

    def due(self, fraction: float) -> bool:
        self._returned = 0
        return self._epoch in self._rounds()

    def act(self, session: Session, fraction: float) -> None:
        """Select and scale the weak filters of this round."""
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
                "groups). In training, batch statistics undo this and amplify "
                "kernels near 0 by up to 1 / sqrt(epsilon), which ruins a trained "
                "model. Use target='scale' or target='bn', unless you train from "
                "scratch.",
                count,
            )
            return
        plain = isinstance(criterion, L1 | L2 | FPGM | Similarity)
        read = self._scaler.read
        if read and (plain or isinstance(criterion, Folded)):
            _log.warning(
                "The channels of group '%s' (%d such groups) pass a "
                "BatchNormalization with scale=False, so the weights that read them "
                "are attenuated. Criterion %s does not see these. Use one that "
                "needs data, such as 'taylor', or scale=True.",
                read[0],
                len(read),
                type(criterion).__name__,
            )
        elif plain:
            _log.warning(
                "Criterion %s scores kernels, but the BatchNormalization after them "
                "is attenuated (target='%s'), which does not change its scores. Use "
                "kprune.criteria.Folded(...) of it, 'bn_scale' or a criterion that "
                "uses data.",
                type(criterion).__name__,
                self.target,
            )

    def _rounds(self) -> list[int]:
        return self.schedule.rounds(self.params.get("epochs"))

    def _choose_weak(self, fraction: float = 1.0) -> Vectors:
        """Return the weak filters: those that the allocation would remove now."""
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
        """Return the recorded weak filters, or new ones if these are not enough."""
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
            self.session.optimizer,
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


# Below this factor, the changes made by training outweigh the attenuated rest.
_LEAST = 0.1


def _undoing(attenuated: np.ndarray) -> np.ndarray:
    """Return the factors that undo the attenuation of channels.

    The factor is 1 for channels that were set to 0.
    """
    inverse = 1.0 / np.maximum(attenuated, _LEAST)
    return np.where(attenuated > 0, inverse, 1.0)


def _kept(weak: Vectors, alive: Vectors) -> Vectors:
    return {n: (alive[n] & ~weak[n]).astype("float32") for n in weak}
