"""Schedule with a single step."""

from __future__ import annotations

from kprune.arguments import whole
from kprune.schedules.base import Schedule
from kprune.schedules.base import register


@register("one_shot")
class OneShot(Schedule):
    """Removes everything at once.

    Args:
        epoch: The epoch, from 0, before which all filters are removed.

    Example:

    >>> [kprune.OneShot(epoch=1)(e) for e in range(3)]
    [0.0, 1.0, 1.0]
    """

    def __init__(self, epoch: int = 0) -> None:
        self.epoch = whole(epoch, "OneShot", "epoch", 0, "epochs")

    def fraction(self, epoch: int, epochs: int | None = None) -> float:
        return float(epoch >= self.epoch)

    def rounds(self, epochs: int | None = None) -> list[int]:
        return [self.epoch]
