"""Constant attenuation factor."""

from __future__ import annotations

from kprune.factors.base import Factor
from kprune.factors.base import checked
from kprune.factors.base import register


@register("constant")
class Constant(Factor):
    """The same factor in every period.

    After k consecutive attenuations, a filter that does not learn is scaled by
    `value ** k`.

    Args:
        value: The factor; 0 is soft filter pruning, 1 does nothing.
        tail: See `Factor`.
        scale_slots: See `Factor`.

    Example:

    >>> [kprune.factors.Constant(0.5)(p) for p in (0.5, 1.0)]
    [0.5, 0.5]
    """

    def __init__(
        self,
        value: float = 0.5,
        *,
        tail: int = 0,
        scale_slots: bool = False,
    ) -> None:
        super().__init__(tail=tail, scale_slots=scale_slots)
        self.value = checked(self, "value", value)

    def factor(self, progress: float) -> float:
        return float(self.value)
