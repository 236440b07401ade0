"""Attenuation factor with equal ratios."""

from __future__ import annotations

from kprune.factors.base import Factor
from kprune.factors.base import checked
from kprune.factors.base import register


@register("exponential")
class Exponential(Factor):
    """Factor that goes from `start` to `stop` in equal ratios.

    Args:
        start: The factor before the first period, above 0.
        stop: The factor in the last period, above 0.
        tail: See `Factor`.
        scale_slots: See `Factor`.

    Example:

    >>> kprune.factors.Exponential(stop=0.01)(0.5)
    0.1
    """

    def __init__(
        self,
        start: float = 1.0,
        stop: float = 0.01,
        *,
        tail: int = 0,
        scale_slots: bool = False,
    ) -> None:
        super().__init__(tail=tail, scale_slots=scale_slots)
        self.start = self._positive("start", start)
        self.stop = self._positive("stop", stop)

    def _positive(self, argument: str, value: float) -> float:
        if not checked(self, argument, value):
            raise ValueError(
                "Exponential needs numbers above 0, because equal ratios never "
                f"reach 0. Received: {argument}={value!r}. Use Linear or Cosine, "
                "or a tail."
            )
        return value

    def factor(self, progress: float) -> float:
        return self.start * (self.stop / self.start) ** progress
