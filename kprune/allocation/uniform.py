"""Allocation of equal shares."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kprune.allocation._solver import by_priority
from kprune.allocation.base import RankedAllocation
from kprune.allocation.base import Request
from kprune.allocation.base import register

if TYPE_CHECKING:
    from kprune.session import Session


@register("uniform")
class Uniform(RankedAllocation):
    """Removes the same share of every group, up to one filter (or `round_to`).

    Args:
        keep_min: See `Global`.
        max_share: See `Global`.
        round_to: See `Global`.

    Example:

    ```python
    masked = kprune.prune(model, reduce={"macs": 0.5}, allocation="uniform")
    ```
    """

    # More would make shares unequal in groups whose filters are cheap.
    restore = 1

    def __init__(
        self, keep_min: int = 1, max_share: float = 1.0, round_to: int = 1
    ) -> None:
        super().__init__(keep_min, max_share, round_to)

    def priorities(
        self, request: Request, session: Session | None
    ) -> list[np.ndarray]:
        vectors = []
        for name in request.names:
            scores, alive = (
                request.scores[name],
                request.alive[name].astype(bool),
            )
            order = by_priority(scores, alive)
            gone = len(scores) - len(order)
            # The share at which each channel is removed, rounded to whole filters.
            shares = np.zeros(len(scores))
            shares[order] = (gone + np.arange(len(order)) + 0.5) / len(scores)
            vectors.append(shares)
        return vectors
