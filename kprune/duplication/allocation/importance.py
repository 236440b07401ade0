"""Allocation by the importance of groups."""

from __future__ import annotations

from typing import Any

import numpy as np

from kprune import arguments
from kprune.allocation.base import Request
from kprune.allocation.base import register
from kprune.allocation.base import require_finite
from kprune.duplication.allocation._measured import MeasuredAllocation
from kprune.duplication.copies import Copies
from kprune.duplication.probes import ReplacementProbe
from kprune.session import Session


@register("importance")
class Importance(MeasuredAllocation):
    """Removes smaller shares from groups that affect the loss more.

    For each group separately, `share` of its channels are removed, lowest scores first,
    and the loss is measured. The group with the largest increase keeps all its
    channels, groups without an increase lose the largest share, and the others are
    interpolated linearly.

    It takes one pass over the samples per group.

    Args:
        share: Share of a group's channels to remove in the measurement.
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
        start = require_finite(probe(request.names[0], 0))
        found = []
        for name, present in zip(
            request.names, request.alive_counts, strict=True
        ):
            tried = int(
                np.clip(round(self.share * present), 1, max(present - 1, 1))
            )
            rise = probe(name, tried) - start if present > 1 else 0.0
            rise = max(rise, 0.0) if np.isfinite(rise) else np.inf
            # One number per group, the same for all counts.
            found.append(np.full(int(present) + 1, rise))
        return found

    def thresholds(self, rises: list[np.ndarray]) -> list[np.ndarray]:
        costs = np.array([rise[0] for rise in rises])
        finite = np.isfinite(costs)
        most = costs[finite].max(initial=0.0)
        relative = np.where(finite, costs / (most or 1.0), 1.0)
        found: list[Any] = []
        for rise, importance in zip(rises, relative, strict=True):
            present = rise.size - 1
            part = np.arange(1, present + 1) / max(present, 1)
            # The most important group can still lose channels, but last.
            found.append(part / max(1.0 - importance, 1e-3))
        return found
