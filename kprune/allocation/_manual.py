"""Allocation with given shares."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from kprune.allocation._solver import by_priority
from kprune.allocation.base import Allocation
from kprune.allocation.base import Request
from kprune.allocation.base import Vectors
from kprune.allocation.base import check_reachable
from kprune.allocation.base import solve_ranked
from kprune.allocation.base import within_budget
from kprune.allocation.global_ import Global
from kprune.arguments import did_you_mean
from kprune.arguments import share

if TYPE_CHECKING:
    from kprune.session import Session


class Manual(Allocation):
    """Removes given shares of some groups; the others meet the target, if any.

    Args:
        shares: Group name -> share of its channels to remove, at least 0 and
            below 1, rounded to whole filters. With 0, the group keeps all
            channels.
        others: The allocation for the groups without a share. They keep all
            channels if there is no target.

    Example:

    ```python
    masked = kprune.prune(model, allocation={"conv1": 0.25, "conv2": 0.5})
    # Keep all of conv1, and remove 40 % of the MACs from the other groups:
    masked = kprune.prune(model, reduce={"macs": 0.4}, allocation={"conv1": 0.0})
    ```
    """

    def __init__(
        self, shares: Mapping[str, float], others: Global | None = None
    ) -> None:
        if not shares:
            raise ValueError(
                "A dictionary as `allocation` needs at least one group, for example "
                'allocation={"conv1": 0.5}. Received an empty dictionary.'
            )
        for name, part in shares.items():
            share(part, "An allocation by hand", name, zero=True)
        self.shares = {name: float(part) for name, part in shares.items()}
        self.others = Global() if others is None else others

    def check(self, request: Request) -> None:
        known = request.names
        for name in self.shares:
            if name in known:
                continue
            pinned = {
                g.name: g.pinned for g in request.graph.groups if g.pinned
            }
            if name in pinned:
                raise ValueError(
                    f"Group {name!r} cannot be pruned: {pinned[name]}. Remove it from "
                    f"the allocation. Prunable groups: {', '.join(map(repr, known))}."
                )
            raise ValueError(
                f"The allocation names group {name!r}, which the model does not "
                f"have. {did_you_mean(name, known)}"
            )
        if request.reduce:
            check_reachable(
                request,
                self._min_channels(request, 1.0),
                "the given shares and, in the other groups, "
                f"{self.others.limits}",
                "larger shares",
            )

    def met(self, request: Request) -> bool:
        wanted = [
            size - self._removed(name, size, request.fraction)
            for name, size in zip(request.names, request.sizes, strict=True)
        ]
        return bool((request.alive_counts <= wanted).all()) and within_budget(
            request
        )

    def solve(self, request: Request, session: Session | None) -> Vectors:
        self.check(request)
        kept = {}
        for name, size in zip(request.names, request.sizes, strict=True):
            alive = request.alive[name].astype(bool)
            remove = (
                self._removed(name, size, request.fraction) - (~alive).sum()
            )
            order = by_priority(request.scores[name], alive)
            alive[order[: max(0, remove)]] = False
            kept[name] = alive
        if not request.reduce:
            return kept
        rest = dataclasses.replace(request, alive=kept)
        return solve_ranked(
            rest,
            self.others.priorities(rest, session),
            self._min_channels(rest, request.fraction),
            self.others.restore,
            self.others.round_to,
        )

    def _removed(self, name: str, size: int, fraction: float) -> int:
        share = self.shares.get(name, 0.0) * fraction
        return min(int(share * size + 0.5), size - 1)

    def _min_channels(self, request: Request, fraction: float) -> np.ndarray:
        min_channels = self.others.min_channels(request)
        for i, (name, size) in enumerate(
            zip(request.names, request.sizes, strict=True)
        ):
            if name in self.shares:
                min_channels[i] = size - self._removed(name, size, fraction)
        return min_channels
