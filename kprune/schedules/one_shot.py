"""Schedule with a single step."""

from __future__ import annotations

from kprune.arguments import whole
from kprune.schedules.base import Schedule
from kprune.schedules.base import register
from kprune.schedules.base import two_thirds


@register("one_shot")
class OneShot(Schedule):
    """Removes everything at once.

    Args:
        epoch: The epoch, from 0, before which all filters are removed; `None` for
            after two thirds of the epochs.

    Example:

    >>> [kprune.OneShot(epoch=1)(e) for e in range(3)]
    [0.0, 1.0, 1.0]
    """

    def __init__(self, epoch: int | None = 0) -> None:
        self.epoch = (
            None
            if epoch is None
            else whole(epoch, "OneShot", "epoch", 0, "epochs", ", or None")
        )

    def fraction(self, epoch: int, epochs: int | None = None) -> float:
        return float(epoch >= self.rounds(epochs)[0])

    def rounds(self, epochs: int | None = None) -> list[int]:
        if self.epoch is not None:
            return [self.epoch]
        if epochs is None:
            raise ValueError(
                "OneShot(None) acts after two thirds of the epochs, but their number "
                "is unknown here. Set the epoch, for example OneShot(10)."
            )
        return [min(two_thirds(self, 0, epochs) + 1, epochs - 1)]
