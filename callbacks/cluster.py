"""Clustering of filters during training, with one filter per cluster in the end."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from kprune.arguments import share
from kprune.callbacks.base import PruningCallback
from kprune.duplication.api import merge_copies
from kprune.duplication.clusters import draw_together
from kprune.duplication.clusters import find_clusters
from kprune.rebuild.copies import CopyMap
from kprune.rebuild.copies import assign
from kprune.session import Session

_log = logging.getLogger("kprune")


class ClusterCallback(PruningCallback):
    """Pulls similar filters together while a model trains, then merges them.

    At the beginning of each round, the filters of each group are clustered, into as
    many clusters as the schedule allows filters, and each filter moves to the mean of
    its cluster: kernels, biases, batch normalisation with its statistics, and
    optimizer slots. The weights that read the filters do not change. So filters of a
    cluster get different gradients, diverge, and may join another cluster in the next
    round. At the last round of the schedule, by default after two thirds of the
    epochs, the filters of each cluster are made equal again and merged into one, which
    is read with the sum of their weights. This is exact. Fine-tuning follows.

    If equal channels cannot be merged exactly (because of layer normalisation across
    them, or a softmax over them), the filters with the lowest scores are removed at the
    last round instead; a log line says so.

    Everything follows from weights and epoch, so that an interrupted run continues from
    a checkpoint. The `logs` of each epoch contain `pruned_macs` and `pruned_params`,
    which are 0 until clusters are merged, and `clustered_filters`, the number of
    filters that share the mean of another.

    Args:
        criterion: See `kprune.prune`. It affects only how many filters each group
            loses, and which ones in groups without clusters.
        reduce: See `kprune.prune`. It may be `{"latency": 0.5}`.
        schedule: Share of the target that is clustered in each round: `"asymptotic"`
            (three quarters after an eighth of the rounds), `"linear"`,
            `"polynomial"`, `"constant"`, an object of `kprune.schedules`, or a
            function `f(epoch) -> share`.
        allocation: How many clusters each group has. See `kprune.prune`.
        data: See `kprune.prune`.
        pull: Share of the distance to the mean of its cluster that a filter moves in
            each round; in the last round it moves all of it.
        recover: How to repair the kept layers when clusters are merged. See
            `kprune.prune`. Defaults to no repair.

    Raises:
        ValueError: When `fit` begins. See `PruneCallback`.

    Example:

    ```python
    masked.fit(train, epochs=30, callbacks=[
        ClusterCallback(reduce={"macs": 0.5})
    ])
    compact = kprune.rebuild(masked)
    ```

    After "Asymptotic Soft Cluster Pruning" (Niu, Teng and Zou, arXiv
    2206.08186).
    """

    def __init__(
        self,
        criterion: Any = "l2",
        reduce: Mapping[str, float] | None = None,
        schedule: Any = "asymptotic",
        allocation: Any = "uniform",
        data: Any = None,
        pull: float = 1.0,
        recover: Any = None,
    ) -> None:
        super().__init__(criterion, reduce, schedule, allocation, data, recover)
        self.pull = share(pull, type(self).__name__, "pull", one=True)
        self._clustered = 0

    def begin(self, session: Session) -> None:
        self._clustered = 0

    def due(self, fraction: float) -> bool:
        return self._epoch in self._rounds() and super().due(fraction)

    def act(self, session: Session, fraction: float) -> None:
        """Cluster the filters, and pull those of each cluster together."""
        alive = session.settle()
        masks = self.policy.choose(fraction, alive)
        self._draw(session, find_clusters(session, masks, alive), self.pull)

    def finishes(self, epoch: int, last: bool) -> bool:
        end = self._rounds()[-1]
        return (
            epoch == self.params.get("epochs") == end if last else epoch >= end
        )

    def finish(self, session: Session) -> None:
        """Cluster a last time and merge, unless the target is met already."""
        if self.policy.met():
            return
        before = session.snapshot() if self.repairs else None
        alive = session.settle()
        masks = self.policy.choose(1.0, alive)
        maps = find_clusters(session, masks, alive)
        self._draw(session, maps, 1.0)
        exact = merge_copies(session, maps)
        session.remove(exact)
        merged = session.snapshot() if self.repairs else None
        self.remove({**masks, **exact}, before, merged)
        _log.info("%d filters are merged into others", self._clustered)
        self._clustered = 0

    def status(self) -> dict[str, float]:
        return {**super().status(), "clustered_filters": self._clustered}

    def _rounds(self) -> list[int]:
        return self.schedule.rounds(self.params.get("epochs"))

    def _draw(
        self, session: Session, maps: dict[str, CopyMap], pull: float
    ) -> None:
        edit = draw_together(maps, pull)
        masked, graph = session.masked, session.graph
        assign(masked, graph, maps, edit, True, session.optimizer)
        self._clustered = sum(int(m.replaced.sum()) for m in maps.values())
