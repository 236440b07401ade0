"""Schedule with the whole target in every round."""

from __future__ import annotations

from kprune.schedules._rounds import RoundsSchedule
from kprune.schedules.base import register


@register("constant")
class Constant(RoundsSchedule):
    """The whole target in every round, for soft methods.

    Soft methods select channels anew in every round and remove them at epoch `end`.
    Hard pruning removes everything at epoch `begin`.

    Args:
        begin: First epoch that acts, from 0.
        end: Epoch that removes channels, `begin` or later. Use the number of epochs
            of `fit` to remove them after training. `None` ends after two thirds of
            the epochs.
        every: Number of epochs between rounds.

    Example:

    >>> schedule = kprune.schedules.Constant(begin=1, end=6, every=2)
    >>> schedule.rounds(), [schedule(e) for e in range(3)]
    ([1, 3, 5, 6], [0.0, 1.0, 1.0])
    """

    def _share(self, progress: float) -> float:
        return 1.0
