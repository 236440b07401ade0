"""Schedule that removes more filters early than late."""

from __future__ import annotations

from kprune.arguments import number
from kprune.schedules._rounds import RoundsSchedule
from kprune.schedules.base import register


@register("polynomial")
class Polynomial(RoundsSchedule):
    """Removes more filters early than late.

    The share of the target is `1 - (1 - k/K) ** power` after round k of K. The
    default is cubic, as in "To prune, or not to prune" (Zhu and Gupta,
    arXiv 1710.01878). The first round is at epoch `begin`; the last one, which
    reaches the target, is at epoch `end`.

    Args:
        begin: First epoch that prunes, from 0.
        end: Epoch that reaches the target, `begin` or later. `None` ends after
            two thirds of the epochs of `fit`.
        power: Exponent; 1 is linear, larger values prune earlier.
        every: Number of epochs between rounds.

    Example:

    >>> [kprune.Polynomial(begin=1, end=2)(e) for e in range(4)]
    [0.0, 0.875, 1.0, 1.0]
    """

    def __init__(
        self,
        begin: int = 0,
        end: int | None = None,
        power: float = 3,
        every: int = 1,
    ) -> None:
        super().__init__(begin, end, every)
        why = " (1 is linear, 3 is cubic)"
        self.power = number(power, "Polynomial", "power", above=0, why=why)

    def _share(self, progress: float) -> float:
        return 1.0 - (1.0 - progress) ** self.power
