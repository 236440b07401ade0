"""Attenuation factor along half a cosine."""

from __future__ import annotations

import math

from kprune.factors.base import register
from kprune.factors.linear import Linear


@register("cosine")
class Cosine(Linear):
    """Factor that goes from `start` to `stop` along half a cosine.

    Args:
        start: See `Linear`.
        stop: See `Linear`.
        tail: See `Factor`.
        scale_slots: See `Factor`.

    Example:

    >>> [round(kprune.factors.Cosine()(p), 3) for p in (0.25, 0.5, 1.0)]
    [0.854, 0.5, 0.0]
    """

    def factor(self, progress: float) -> float:
        return super().factor((1.0 - math.cos(math.pi * progress)) / 2.0)
