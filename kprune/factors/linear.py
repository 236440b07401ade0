"""Attenuation factor with equal steps."""

from __future__ import annotations

from kprune.factors.base import Factor
from kprune.factors.base import checked
from kprune.factors.base import register


@register("linear")
class Linear(Factor):
    """Factor that goes from `start` to `stop` in equal steps.

    Args:
        start: The factor before the first period.
        stop: The factor in the last period.
        tail: See `Factor`.
        scale_slots: See `Factor`.

    Example:

    >>> [kprune.factors.Linear()(p) for p in (0.25, 0.5, 1.0)]
    [0.75, 0.5, 0.0]
    """

    def __init__(
        self,
        start: float = 1.0,
        stop: float = 0.0,
        *,
        tail: int = 0,
        scale_slots: bool = False,
    ) -> None:
        super().__init__(tail=tail, scale_slots=scale_slots)
        self.start = checked(self, "start", start)
        self.stop = checked(self, "stop", stop)

    def factor(self, progress: float) -> float:
        return self.start + (self.stop - self.start) * progress
