"""Base classes of schedules."""

from __future__ import annotations

import abc
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

from kprune.arguments import as_number
from kprune.arguments import name_of
from kprune.parts import Value
from kprune.registry import Registry


class Schedule(Value, abc.ABC):
    """Base class of schedules, which map an epoch to a share of the target.

    Schedules have no state: the share depends only on the epoch, so that a resumed
    run continues where the interrupted one stopped.
    """

    @abc.abstractmethod
    def fraction(self, epoch: int, epochs: int | None = None) -> float:
        """Return the share of the target, in [0, 1].

        Args:
            epoch: Index of the epoch that is about to begin, from 0.
            epochs: Number of epochs of the run, if known.
        """

    def __call__(self, epoch: int, epochs: int | None = None) -> float:
        return self.fraction(epoch, epochs)

    def rounds(self, epochs: int | None = None) -> list[int]:
        """Return the epochs that act; soft methods remove channels at the last one.

        Defaults to every epoch of the first two thirds.

        Args:
            epochs: Number of epochs of the run, if known.
        """
        return list(range(two_thirds(self, 0, epochs) + 1))

    def toward(self, reduce: Mapping[str, float]) -> Schedule:
        """Return the schedule for a target; by default itself.

        Args:
            reduce: Share of each cost to remove in the end.
        """
        return self


class FunctionSchedule(Schedule):
    """A plain function `f(epoch) -> share of the target` as a schedule.

    Args:
        function: Function of the epoch that returns the share, from 0 to 1.
    """

    def __init__(self, function: Callable[[int], float]) -> None:
        self.function = function

    def fraction(self, epoch: int, epochs: int | None = None) -> float:
        share = self.function(epoch)
        if not 0 <= as_number(share) <= 1:
            raise ValueError(
                f"The schedule function {name_of(self.function)} must return the "
                "share of the target to reach in an epoch, a number from 0 to 1. It "
                f"returned {share!r} for epoch {epoch}."
            )
        return float(share)


def two_thirds(schedule: Schedule, begin: int, epochs: int | None) -> int:
    """Return the last epoch of the first two thirds, `begin` or later."""
    if epochs is None:
        kind, advice = "Polynomial", "Use a schedule with an end"
        if hasattr(schedule, "end"):
            kind, advice = type(schedule).__name__, "Set its end"
        raise ValueError(
            f"{schedule!r} ends after two thirds of the epochs, but their number is "
            f"unknown here. {advice}, for example "
            f"{kind}(begin={begin}, end={begin + 10})."
        )
    return max(begin, 2 * epochs // 3 - 1)


registry = Registry("schedule", Schedule, FunctionSchedule, "schedules")
register = registry.register


def get(identifier: Any) -> Schedule:
    """Return a schedule.

    Args:
        identifier: `"one_shot"`, `"linear"`, `"polynomial"` or another
            registered name, a `Schedule`, a function `f(epoch) -> share`, or
            `None` for a cubic `Polynomial` over the first two thirds of the
            epochs.

    Returns:
        A `Schedule`.

    Example:

    >>> kprune.schedules.get("linear")(epoch=0, epochs=6)
    0.25
    """
    found: Schedule = registry.get(
        "polynomial" if identifier is None else identifier
    )
    return found


def names() -> list[str]:
    """Return all names that `get` accepts."""
    return registry.names
