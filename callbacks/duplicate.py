"""Training with copies of filters, which are merged at the end."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping
from typing import Any

from kprune.arguments import number
from kprune.arguments import whole
from kprune.callbacks.base import PruningCallback
from kprune.duplication.api import merge_copies
from kprune.duplication.api import replace
from kprune.duplication.copies import Copies
from kprune.duplication.repair import repair_copies
from kprune.parts import Part
from kprune.pruning import Policy
from kprune.rebuild.api import MERGE
from kprune.rebuild.clones import find_clones
from kprune.rebuild.copies import CopyMap
from kprune.rebuild.copies import assign
from kprune.rebuild.copies import tie
from kprune.schedules import OneShot
from kprune.session import Session

_log = logging.getLogger("kprune")


@dataclasses.dataclass(frozen=True, repr=False)
class Merge(Part):
    """How training with copies ends.

    Args:
        epoch: The epoch, from 0, before which copies are merged; None for the end of
            training.
        tolerance: Largest difference between merged copies, relative to the largest
            weight of their variable.
        criterion: Criterion for removing further filters if copies have diverged, so
            that merging alone does not meet the target. Norms are unsuitable, because
            copies of important filters have large norms.
        allocation: Allocation for removing these filters.
    """

    epoch: int | None = None
    tolerance: float = MERGE
    criterion: Any = "fpgm"
    allocation: Any = "global"

    def __post_init__(self) -> None:
        if self.epoch is not None:
            why = ", or None for the end of training"
            whole(self.epoch, "Merge", "epoch", of="epochs", why=why)
        number(self.tolerance, "Merge", "tolerance", least=0)


class DuplicateCallback(PruningCallback):
    """Trains with copies of important filters in place of unimportant ones.

    Before one epoch, the least important filters become copies of the most important
    ones, as in `kprune.duplicate`. At the end, copies are merged, and further filters
    are removed if needed, so that `kprune.rebuild` returns a model that meets the
    target.

    Copies with equal shares and no noise get equal gradients and stay copies: the model
    trains as the small one would, but with another step size. Rounding and dropout make
    them diverge slightly, so copies are set to their mean after each epoch. With
    `Copies(consumers=Split("random"))` or noise, copies diverge, and at the end filters
    similar to others are removed.

    A model that has copies already, from `kprune.duplicate` or from an interrupted run,
    gets no new ones. Copies with noise are not recognised, so let the callback make
    them. The `logs` of each epoch contain `pruned_macs` and
    `pruned_params`, which are 0 until copies are merged, and `copies`, the number of
    filters that are copies of others.

    Args:
        criterion: See `kprune.prune`.
        reduce: See `kprune.prune`. It may be `{"latency": 0.5}`.
        allocation: How many filters of each group to replace. See `kprune.duplicate`.
        data: See `kprune.duplicate`.
        copies: How to copy filters.
        epoch: The epoch, from 0, before which filters are replaced.
        merge: How training with copies ends.
        recover: How to repair the kept layers after filters have become copies, and
            when diverged copies are removed at the end. See `kprune.duplicate`.
            Defaults to no repair.
        run_dir: See `PruningCallback`.

    Raises:
        ValueError: At construction, if copies would be merged before they are made.
            When `fit` begins: see `PruneCallback`.

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
    10.1117/12.3018876). Only its abstract is public; the steps between duplication and
    pruning are kprune's own.
    """

    def __init__(  # noqa: PLR0913  each is a choice of its own
        self,
        criterion: Any = "l1",
        reduce: Mapping[str, float] | None = None,
        allocation: Any = "tolerance",
        data: Any = None,
        copies: Copies | None = None,
        epoch: int = 0,
        merge: Merge | None = None,
        recover: Any = None,
        run_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(
            criterion,
            reduce,
            OneShot(epoch),
            allocation,
            data,
            recover,
            run_dir,
        )
        self.copies = copies or Copies()
        self.merge = merge or Merge()
        self.epoch = epoch
        if self.merge.epoch is not None and self.merge.epoch <= epoch:
            raise ValueError(
                "DuplicateCallback must merge copies after it makes them. Received: "
                f"epoch={epoch}, merge={self.merge!r}."
            )
        self._maps: dict[str, CopyMap] | None = None
        self._done = False

    def begin(self, session: Session) -> None:
        self._maps, self._done = None, False
        self._last().check()

    def due(self, fraction: float) -> bool:
        wanted = self._epoch == self.epoch
        return wanted and not self._copied() and not self.policy.met()

    def act(self, session: Session, fraction: float) -> None:
        with session.rollback():
            alive = session.settle()
            before = session.snapshot()
            scores = self.policy.score(alive)
            masks = self.policy.allocate(scores, fraction, alive)
            maps = replace(session, masks, scores, alive, self.copies)
            repair_copies(session, before, maps, self.copies, self._repair)
        self._maps = maps

    def finishes(self, epoch: int, last: bool) -> bool:
        self._copied()
        if self.merge.epoch is None:
            return last and epoch > self.epoch
        return epoch >= self.merge.epoch

    def finish(self, session: Session) -> None:
        """Merge copies, and remove further filters if the target needs it."""
        if self._done:
            return
        self._done = True
        self._tie(session)
        maps = self._clones(self.merge.tolerance)
        if maps:
            session.remove(merge_copies(session, maps))
        merged = sum(int(m.replaced.sum()) for m in maps.values())
        parted = sum(int(m.replaced.sum()) for m in self._copied().values())
        _log.info("%d of %d copies are merged", merged, parted)
        self._maps = {}
        if not self.policy.met():
            self.remove(self._last().choose(alive=session.settle()))

    def after_epoch(self, session: Session) -> None:
        self._tie(session)

    def status(self) -> dict[str, float]:
        copies = sum(int(m.replaced.sum()) for m in self._copied().values())
        return {**super().status(), "copies": copies}

    def _copied(self) -> dict[str, CopyMap]:
        """Return which filters are copies, including those made before.

        They are looked up on first use, not when `fit` begins, because another callback
        may restore weights then.
        """
        if self._maps is None:
            self._maps = self._clones(MERGE)
        return self._maps

    def _clones(self, tolerance: float) -> dict[str, CopyMap]:
        session = self.session
        return find_clones(
            session.masked, session.graph, session.alive(), tolerance
        )

    def _tie(self, session: Session) -> None:
        """Set the weights and slots of copies and donors to their means."""
        maps = self._copied()
        if self.copies.tied and maps:
            masked, graph = session.masked, session.graph
            assign(masked, graph, maps, tie(maps), True, session.optimizer)

    def _last(self) -> Policy:
        """Return the policy for removing filters that cannot be merged."""
        wanted = self.policy
        return Policy(
            self.session,
            self.merge.criterion,
            wanted.reduce or None,
            self.merge.allocation if wanted.reduce else wanted.allocation,
        )
