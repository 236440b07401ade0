"""Schedule with equal steps of the costs."""

from __future__ import annotations

import math
from collections.abc import Mapping

from kprune.arguments import share
from kprune.arguments import whole
from kprune.schedules.base import Schedule
from kprune.schedules.base import register


@register("increments")
class Increments(Schedule):
    """Removes the same share of the costs in each round, with training in between.

    With `step=0.03`, the model is trained after every 3 % that are removed, as in
    MSVFP (Ghimire and Kim, doi 10.3390/app13010316).

    Args:
        step: Share of the unpruned model's costs to remove per round.
        target: Share to remove in total; `None` for the largest in `reduce`.
        begin: First epoch that prunes, from 0.
        every: Number of training epochs after each round.

    Example:

    >>> schedule = kprune.schedules.Increments(0.1, target=0.25, every=2)
    >>> [schedule(e) for e in range(5)]
    [0.4, 0.4, 0.8, 0.8, 1.0]
    """

    def __init__(
        self,
        step: float = 0.03,
        target: float | None = None,
        begin: int = 0,
        every: int = 1,
    ) -> None:
        self.step = share(step, "Increments", "step")
        self.target = (
            None if target is None else share(target, "Increments", "target")
        )
        self.begin = whole(begin, "Increments", "begin", 0, "epochs")
        self.every = whole(every, "Increments", "every", 1, "epochs")

    def toward(self, reduce: Mapping[str, float]) -> Schedule:
        if self.target is not None or not reduce:
            return self
        return Increments(
            self.step, max(reduce.values()), self.begin, self.every
        )

    def fraction(self, epoch: int, epochs: int | None = None) -> float:
        rounds = self.rounds(epochs)
        done = sum(first <= epoch for first in rounds)
        share = done * self.step / (self.target or 1.0)
        return share if done < len(rounds) else 1.0

    def rounds(self, epochs: int | None = None) -> list[int]:
        if self.target is None:
            raise ValueError(
                f"{self!r} has no target. Set it, for example target=0.5."
            )
        count = math.ceil(self.target / self.step - 1e-9)
        rounds = [self.begin + n * self.every for n in range(count)]
        if epochs is not None and rounds[-1] >= epochs:
            raise ValueError(
                f"{self!r} needs {rounds[-1] + 1} epochs, but there are {epochs}. "
                f"Train longer, or use a larger step than {self.step}."
            )
        return rounds
