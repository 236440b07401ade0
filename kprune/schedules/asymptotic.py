"""Most of the target early."""

from __future__ import annotations

import math

from kprune.schedules.base import register
from kprune.schedules.constant import Constant

# k of `Asymptotic`: u = exp(-k / 8) solves (1 - u) / (1 - u**8) = 3 / 4.
_DECAY = 11.089988552228323


@register("asymptotic")
class Asymptotic(Constant):
    """Three quarters of the target after an eighth of the rounds.

    `a * exp(-k * x) + c` through (0, 0), (1/8, 3/4) and (1, 1), as in
    "Asymptotic Soft Filter Pruning" (He et al., arXiv 1808.07471).

    Args:
        begin: First epoch that acts, from 0.
        end: Epoch that reaches the target, `begin` or later. `None` ends after
            two thirds of the epochs of `fit`.
        every: Epochs from one round to the next.

    Example:

    >>> schedule = kprune.schedules.Asymptotic(begin=0, end=15)
    >>> [round(schedule(e), 3) for e in (0, 1, 15)]
    [0.5, 0.75, 1.0]
    """

    def _share(self, progress: float) -> float:
        return (1.0 - math.exp(-_DECAY * progress)) / (1.0 - math.exp(-_DECAY))
