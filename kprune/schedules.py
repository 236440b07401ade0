"""When to prune: epoch in, share of the target out."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from typing import Any

from kprune.registry import Registry
from kprune.registry import as_number


class Schedule(abc.ABC):
    """Maps an epoch to the share of the target that must be reached in it.

    Schedules keep no state: the share follows from the epoch alone, so that a
    resumed run continues where the killed one stopped.
    """

    @abc.abstractmethod
    def fraction(self, epoch: int, epochs: int | None = None) -> float:
        """Return the share of the target, in [0, 1].

        Args:
            epoch: Index of the epoch that is about to begin, from 0.
            epochs: How many epochs the run has, where known.
        """

    def __call__(self, epoch: int, epochs: int | None = None) -> float:
        return self.fraction(epoch, epochs)

    @abc.abstractmethod
    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Schedule:
        """Return the schedule that `get_config` described."""
        return cls(**config)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Schedule) or type(self) is not type(other):
            return NotImplemented
        return self.get_config() == other.get_config()

    def __hash__(self) -> int:
        return hash((type(self), tuple(self.get_config().items())))

    def __repr__(self) -> str:
        arguments = ", ".join(
            f"{k}={v!r}" for k, v in self.get_config().items()
        )
        return f"{type(self).__name__}({arguments})"


class OneShot(Schedule):
    """Everything at one epoch.

    Args:
        epoch: The epoch, from 0, before which all filters go.

    Example:

    >>> [kprune.OneShot(epoch=1)(e) for e in range(3)]
    [0.0, 1.0, 1.0]
    """

    def __init__(self, epoch: int = 0) -> None:
        self.epoch = _whole(epoch, "OneShot", "epoch", 0)

    def fraction(self, epoch: int, epochs: int | None = None) -> float:
        return float(epoch >= self.epoch)

    def get_config(self) -> dict[str, Any]:
        return {"epoch": self.epoch}


class _Rounds(Schedule):
    """Rounds at `begin`, every `every` epochs after it, and at `end`."""

    def __init__(self, begin: int, end: int | None, every: int) -> None:
        name = type(self).__name__
        self.begin = _whole(begin, name, "begin", 0)
        self.end = None if end is None else _whole(end, name, "end", 0)
        self.every = _whole(every, name, "every", 1)
        if self.end is not None and self.end < self.begin:
            raise ValueError(
                f"{name} must not end before it begins. Received: begin={begin}, "
                f"end={end}. Swap them, or use OneShot(epoch={end})."
            )

    @abc.abstractmethod
    def _share(self, progress: float) -> float:
        """Map the share of rounds done, in [0, 1], to the share of the target."""

    def fraction(self, epoch: int, epochs: int | None = None) -> float:
        end = self.end
        if end is None:
            if epochs is None:
                name = type(self).__name__
                raise ValueError(
                    f"{self!r} ends after two thirds of the epochs, but how many "
                    "there are is unknown here. Give it an end, for example "
                    f"{name}(begin={self.begin}, end={self.begin + 10})."
                )
            end = max(self.begin, 2 * epochs // 3 - 1)
        if epoch < self.begin:
            return 0.0
        if epoch >= end:
            return 1.0
        rounds = math.ceil((end - self.begin) / self.every) + 1
        done = (epoch - self.begin) // self.every + 1
        return self._share(done / rounds)


class Polynomial(_Rounds):
    """Many filters early, few late: `1 - (1 - k/K) ** power` after round k of K.

    Cubic by default, as in "To prune, or not to prune" (Zhu and Gupta,
    arXiv 1710.01878). The first round is at epoch `begin`, the last one, which
    reaches the target, at epoch `end`.

    Args:
        begin: First epoch that prunes, from 0.
        end: Epoch that reaches the target, `begin` or later. `None` ends after
            two thirds of the epochs of `fit`.
        power: Exponent; 1 is linear, larger prunes earlier.
        every: Epochs from one round to the next.

    Example:

    >>> [kprune.Polynomial(begin=1, end=2)(e) for e in range(4)]
    [0.0, 0.875, 1.0, 1.0]
    """

    def __init__(
        self,
        begin: int = 0,
        end: int | None = None,
        power: float = 3,
        every: int = 1,
    ) -> None:
        super().__init__(begin, end, every)
        if not 0 < as_number(power) < math.inf:
            raise ValueError(
                "Polynomial needs a power above 0 (1 is linear, 3 is cubic). "
                f"Received: power={power!r}."
            )
        self.power = power

    def _share(self, progress: float) -> float:
        return 1.0 - (1.0 - progress) ** self.power

    def get_config(self) -> dict[str, Any]:
        return {
            "begin": self.begin,
            "end": self.end,
            "power": self.power,
            "every": self.every,
        }


class Linear(_Rounds):
    """The same share in every round: `k/K` after round k of K.

    Args:
        begin: First epoch that prunes, from 0.
        end: Epoch that reaches the target, `begin` or later. `None` ends after
            two thirds of the epochs of `fit`.
        every: Epochs from one round to the next.

    Example:

    >>> [kprune.Linear(begin=1, end=2)(e) for e in range(4)]
    [0.0, 0.5, 1.0, 1.0]
    """

    def __init__(
        self, begin: int = 0, end: int | None = None, every: int = 1
    ) -> None:
        super().__init__(begin, end, every)

    def _share(self, progress: float) -> float:
        return progress

    def get_config(self) -> dict[str, Any]:
        return {"begin": self.begin, "end": self.end, "every": self.every}


class _Function(Schedule):
    """A plain function `f(epoch) -> share of the target`."""

    def __init__(self, function: Callable[[int], float]) -> None:
        self.function = function

    def fraction(self, epoch: int, epochs: int | None = None) -> float:
        share = self.function(epoch)
        if not 0 <= as_number(share) <= 1:
            raise ValueError(
                f"The schedule function {_name(self.function)} must return the "
                "share of the target that is reached in an epoch, a number from 0 "
                f"to 1. It returned {share!r} for epoch {epoch}."
            )
        return float(share)

    def get_config(self) -> dict[str, Any]:
        return {"function": self.function}


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", repr(function))


def _whole(value: int, schedule: str, argument: str, least: int) -> int:
    number = as_number(value)
    if not number >= least or number % 1:
        raise ValueError(
            f"{schedule} needs a whole number of epochs, {least} or more, as "
            f"`{argument}`. Received: {argument}={value!r}."
        )
    return int(number)


_registry = Registry("schedule", Schedule, _Function)
register = _registry.register
register("one_shot")(OneShot)
register("linear")(Linear)
register("polynomial")(Polynomial)


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
    return Polynomial() if identifier is None else _registry.get(identifier)
