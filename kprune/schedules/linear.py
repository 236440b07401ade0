"""Schedule with equal steps of the target."""

from __future__ import annotations

from kprune.schedules._rounds import RoundsSchedule
from kprune.schedules.base import register


@register("linear")
class Linear(RoundsSchedule):
    """Removes the same share in every round: `k/K` after round k of K.

    Args:
        begin: First epoch that prunes, from 0.
        end: Epoch that reaches the target, `begin` or later. `None` ends after
            two thirds of the epochs of `fit`.
        every: Number of epochs between rounds.

    Example:

    >>> [kprune.Linear(begin=1, end=2)(e) for e in range(4)]
    [0.0, 0.5, 1.0, 1.0]
    """

    def _share(self, progress: float) -> float:
        return progress
