"""Training with copies of filters, which are merged in the end."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from kprune.callbacks.base import PruningCallback
from kprune.duplication.api import replace
from kprune.duplication.copies import Copies
from kprune.pruning import Plan
from kprune.rebuild.api import MERGE
from kprune.rebuild.clones import find_clones
from kprune.rebuild.copies import CopyMap
from kprune.rebuild.copies import assign
from kprune.rebuild.copies import merge as merge_clones
from kprune.rebuild.copies import tie
from kprune.registry import as_number
from kprune.schedules import OneShot

_log = logging.getLogger("kprune")


@dataclasses.dataclass(frozen=True)
class Merge:
    """How training with copies ends.

    Args:
        epoch: The epoch, from 0, before which copies are merged; None for the
            end of training.
        tolerance: How far copies may be apart to be merged, relative to the
            largest weight of their variable.
        criterion: Which filters go then, until the target holds, if copies
            have parted. Norms do not do: copies of important filters have
            large ones.
        allocation: How many of each group go then.
    """

    epoch: int | None = None
    tolerance: float = MERGE
    criterion: Any = "fpgm"
    allocation: Any = "global"

    def __post_init__(self) -> None:
        if self.epoch is not None and not as_number(self.epoch) >= 1:
            raise ValueError(
                "Merge needs an epoch, 1 or more, before which to merge, or None "
                f"for the end of training. Received: epoch={self.epoch!r}."
            )
        if not as_number(self.tolerance) >= 0:
            raise ValueError(
                "Merge needs a number, 0 or more, as `tolerance`. Received: "
                f"{self.tolerance!r}."
            )


class DuplicateCallback(PruningCallback):
    """Trains with copies of critical filters in the place of unimportant ones.

    Before one epoch the filters that matter least become copies of those that
    matter most, as `kprune.duplicate` does. In the end copies are merged, and
    what is still too much is removed, so that `kprune.rebuild` gives a model
    that meets the target.

    Copies with equal shares and no noise get equal gradients, and stay copies:
    the model trains as the small one would, but with another step size. Rounding
    and dropout would move them apart, so each epoch ends with their mean. With
    `Copies(consumers=Split("random"))` or noise, copies part, and at the end
    filters that resemble others go.

    A model that has copies already, from `kprune.duplicate` or from a run that
    was killed, gets no new ones. `logs` of each epoch hold `pruned_macs` and
    `pruned_params`, which are 0 until copies are merged, and `copies`, how
    many filters are tied to others.

    Args:
        criterion: As of `kprune.prune`.
        reduce: As of `kprune.prune`, `{"latency": 0.5}` included.
        allocation: How many filters of each group are replaced, as of
            `kprune.duplicate`.
        data: As of `kprune.duplicate`.
        copies: How filters are copied.
        epoch: The epoch, from 0, before which filters are replaced.
        merge: How training with copies ends.

    Raises:
        ValueError: When `fit` begins: as of `PruneCallback`. At construction: it
            ends before it begins.

    Example:

    ```python
    masked = kprune.wrap(model)
    masked.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    masked.fit(train, epochs=30, callbacks=[
        DuplicateCallback(
            reduce={"macs": 0.5}, data=(x[:1000], y[:1000]), merge=Merge(epoch=10)
        )
    ])
    compact = kprune.rebuild(masked)
    ```

    After "filter duplication" (Ikuta, Yata and Manabe, IWAIT 2024, DOI
    10.1117/12.3018876), whose text is not public beyond the abstract: what
    happens between duplication and pruning is kprune's own.
    """

    def __init__(
        self,
        criterion: Any = "l1",
        reduce: Mapping[str, float] | None = None,
        allocation: Any = "tolerance",
        data: Any = None,
        copies: Copies | None = None,
        epoch: int = 0,
        merge: Merge | None = None,
    ) -> None:
        super().__init__(criterion, reduce, OneShot(epoch), allocation, data)
        self.copies = copies or Copies()
        self.merge = merge or Merge()
        self.epoch = epoch
        if self.merge.epoch is not None and self.merge.epoch <= epoch:
            raise ValueError(
                "DuplicateCallback must merge after it has copied. Received: "
                f"epoch={epoch}, merge={self.merge!r}."
            )
        self._epoch = -1
        self._maps: dict[str, CopyMap] | None = None
        self._scored: tuple[Any, Any] = ({}, {})
        self._done = False

    def on_train_begin(self, logs: Any = None) -> None:
        super().on_train_begin(logs)
        self._maps, self._done = None, False
        self._last(self._plan()).check()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        plan = self._plan()
        self._epoch = epoch
        if self._maps is None:
            # Not when `fit` begins: another callback may restore weights then.
            self._maps = self._clones(plan, MERGE)
        end = self.merge.epoch
        if end is not None and epoch >= end:
            self._finish(plan)
        else:
            super().on_epoch_begin(epoch, logs)

    def due(self, plan: Plan, fraction: float) -> bool:
        return self._epoch == self.epoch and not self._maps and not plan.met()

    def candidates(self, plan: Plan) -> dict[str, np.ndarray]:
        return plan.settle()

    def decide(
        self, plan: Plan, fraction: float, alive: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        scores = plan.score(alive)
        self._scored = scores, alive
        return plan.allocate(scores, fraction, alive)

    def act(self, plan: Plan, masks: dict[str, np.ndarray]) -> None:
        scores, alive = self._scored
        self._maps = replace(plan, masks, scores, alive, self.copies)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        plan = self._plan()
        if self.copies.tied and self._maps:
            self._tie(plan)
        super().on_epoch_end(epoch, logs)
        if logs is not None:
            maps = (self._maps or {}).values()
            logs["copies"] = int(sum(m.replaced.sum() for m in maps))

    def on_train_end(self, logs: Any = None) -> None:
        plan = self._plan()
        if self.merge.epoch is None and self._epoch >= self.epoch:
            self._finish(plan)
        plan.settle()
        super().on_train_end(logs)

    def _clones(self, plan: Plan, tolerance: float) -> dict[str, CopyMap]:
        return find_clones(self.model, plan.graph, plan.alive(), tolerance)

    def _tie(self, plan: Plan) -> None:
        """Gives copies and donors their mean weights, and mean slots."""
        maps = self._maps or {}
        assign(self.model, plan.graph, maps, tie(maps), slots=True)

    def _finish(self, plan: Plan) -> None:
        """Merges copies; removes what is still too much."""
        if self._done:
            return
        self._done = True
        if self.copies.tied and self._maps:
            self._tie(plan)
        maps = self._clones(plan, self.merge.tolerance)
        if maps:
            assign(self.model, plan.graph, maps, merge_clones(maps))
            plan.remove({
                name: (alive & ~maps[name].replaced).astype("float32")
                for name, alive in plan.alive().items()
                if name in maps
            })  # fmt: skip
        merged = sum(int(m.replaced.sum()) for m in maps.values())
        parted = sum(int(m.replaced.sum()) for m in (self._maps or {}).values())
        _log.info("%d of %d copies are merged", merged, parted)
        self._maps = {}
        if not plan.met():
            last = self._last(plan)
            alive = last.settle()
            last.remove(last.allocate(last.score(alive), alive=alive))

    def _last(self, plan: Plan) -> Plan:
        """The plan by which goes what cannot be merged."""
        return Plan(
            self.model,
            self.merge.criterion,
            plan.reduce or None,
            self.merge.allocation if plan.reduce else plan.allocation,
            self.data,
        )
