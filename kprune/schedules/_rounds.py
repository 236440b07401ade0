"""The base class of schedules with regular rounds."""

from __future__ import annotations

import abc
import math

from kprune.arguments import whole
from kprune.schedules.base import Schedule
from kprune.schedules.base import two_thirds


class RoundsSchedule(Schedule):
    """Base class of schedules with regular rounds from `begin` to `end`."""

    def __init__(
        self, begin: int = 0, end: int | None = None, every: int = 1
    ) -> None:
        name = type(self).__name__
        self.begin = whole(begin, name, "begin", 0, "epochs")
        self.end = None if end is None else whole(end, name, "end", 0, "epochs")
        self.every = whole(every, name, "every", 1, "epochs")
        if self.end is not None and self.end < self.begin:
            raise ValueError(
                f"{name} must not end before it begins. Received: begin={begin}, "
                f"end={end}. Swap them, or use OneShot(epoch={end})."
            )

    @abc.abstractmethod
    def _share(self, progress: float) -> float:
        """Return the share of the target for a share of completed rounds, in [0, 1]."""

    def fraction(self, epoch: int, epochs: int | None = None) -> float:
        end = self._end(epochs)
        if epoch < self.begin:
            return 0.0
        if epoch >= end:
            return 1.0
        rounds = math.ceil((end - self.begin) / self.every) + 1
        done = (epoch - self.begin) // self.every + 1
        return self._share(done / rounds)

    def rounds(self, epochs: int | None = None) -> list[int]:
        end = self._end(epochs)
        return [*range(self.begin, end, self.every), end]

    def _end(self, epochs: int | None) -> int:
        if self.end is not None:
            return self.end
        return two_thirds(self, self.begin, epochs)
