"""Slow, fast, slow."""

from __future__ import annotations

import math

from kprune.factors.base import Factor
from kprune.factors.base import checked
from kprune.factors.base import register


@register("cosine")
class Cosine(Factor):
    """From `start` to `stop` along half a cosine: slow, fast, slow.

    Args:
        start: The factor before the first period.
        stop: The factor in the last one.
        tail: See `Factor`.
        scale_slots: See `Factor`.

    Example:

    >>> [round(kprune.factors.Cosine()(p), 3) for p in (0.25, 0.5, 1.0)]
    [0.854, 0.5, 0.0]
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
        left = (1.0 + math.cos(math.pi * progress)) / 2.0
        return self.stop + (self.start - self.stop) * left
