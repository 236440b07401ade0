"""Allocations by how much replacement each group tolerates."""

from __future__ import annotations

from typing import Any

import numpy as np

from kprune import arguments
from kprune.allocation.base import Request
from kprune.allocation.base import register
from kprune.duplication.allocation._measured import MeasuredAllocation
from kprune.duplication.copies import Copies
from kprune.duplication.probes import ReplacementProbe
from kprune.session import Session


@register("importance")
class Importance(MeasuredAllocation):
    """Shares of groups that fall with what a fixed share of them costs.

    For each group alone, `share` of its channels are removed, the lowest
    scores first, and the loss is measured. The group that costs most keeps
    all its channels, one that costs nothing loses the largest share, and the
    others in between by a straight line.

    It takes one pass over the samples per group.

    Args:
        share: Share of a group's channels that is tried.
        samples: See `Tolerance`.
        keep_min: See `Tolerance`.
        max_share: See `Tolerance`.

    Example:

    ```python
    masked = kprune.duplicate(model, allocation="importance", data=(x, y))
    ```
    """

    def __init__(
        self,
        share: float = 0.3,
        samples: int | None = 1000,
        keep_min: int = 2,
        max_share: float = 0.95,
    ) -> None:
        super().__init__(samples, keep_min, max_share)
        self.share = arguments.share(share, "Importance", "share")

    def measure(
        self, request: Request, session: Session | None
    ) -> list[np.ndarray]:
        probe = ReplacementProbe(request, session, Copies(), self.samples)
        start = probe(request.names[0], 0)
        found = []
        for name, living in zip(
            request.names, request.alive_counts, strict=True
        ):
            tried = int(
                np.clip(round(self.share * living), 1, max(living - 1, 1))
            )
            rise = probe(name, tried) - start if living > 1 else 0.0
            rise = max(rise, 0.0) if np.isfinite(rise) else np.inf
            # One number per group, at whatever count.
            found.append(np.full(int(living) + 1, rise))
        return found

    def thresholds(self, rises: list[np.ndarray]) -> list[np.ndarray]:
        costs = np.array([rise[0] for rise in rises])
        finite = np.isfinite(costs)
        most = costs[finite].max(initial=0.0)
        relative = np.where(finite, costs / (most or 1.0), 1.0)
        found: list[Any] = []
        for rise, importance in zip(rises, relative, strict=True):
            living = rise.size - 1
            part = np.arange(1, living + 1) / max(living, 1)
            # The most important group is not left out for good: it goes last.
            found.append(part / max(1.0 - importance, 1e-3))
        return found
