"""When to prune: epoch in, share of the target out."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from collections.abc import Mapping
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

    def rounds(self, epochs: int | None = None) -> list[int]:
        """Return the epochs that act; soft methods remove at the last one.

        By default every epoch of the first two thirds.

        Args:
            epochs: How many epochs the run has, where known.
        """
        return list(range(_two_thirds(self, 0, epochs) + 1))

    def toward(self, reduce: Mapping[str, float]) -> Schedule:
        """Return the schedule for a target; itself, unless it depends on that.

        Args:
            reduce: Share of each cost to remove in the end.
        """
        return self

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

    def rounds(self, epochs: int | None = None) -> list[int]:
        return [self.epoch]

    def get_config(self) -> dict[str, Any]:
        return {"epoch": self.epoch}


class _Rounds(Schedule):
    """Rounds at `begin`, every `every` epochs after it, and at `end`."""

    def __init__(
        self, begin: int = 0, end: int | None = None, every: int = 1
    ) -> None:
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

    def get_config(self) -> dict[str, Any]:
        return {"begin": self.begin, "end": self.end, "every": self.every}

    def _end(self, epochs: int | None) -> int:
        if self.end is not None:
            return self.end
        return _two_thirds(self, self.begin, epochs)


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

    def _share(self, progress: float) -> float:
        return progress


class Constant(_Rounds):
    """The whole target in every round, for soft methods.

    They choose afresh in every round and remove at epoch `end`. Hard pruning
    removes everything at epoch `begin`.

    Args:
        begin: First epoch that acts, from 0.
        end: Epoch that removes, `begin` or later; the number of epochs of
            `fit` to remove when it has ended. `None` ends after two thirds of
            these.
        every: Epochs from one round to the next.

    Example:

    >>> schedule = kprune.schedules.Constant(begin=1, end=6, every=2)
    >>> schedule.rounds(), [schedule(e) for e in range(3)]
    ([1, 3, 5, 6], [0.0, 1.0, 1.0])
    """

    def _share(self, progress: float) -> float:
        return 1.0


class Asymptotic(Constant):
    """Three quarters of the target after an eighth of the rounds.

    `a * exp(-k * x) + c` through (0, 0), (1/8, 3/4) and (1, 1), as in
    "Asymptotic Soft Filter Pruning" (He et al., arXiv 1808.07471).

    Args:
        begin: First epoch that acts, from 0.
        end: Epoch that reaches the target, `begin` or later. `None` ends after
            two thirds of the epochs of `fit`.
        every: Epochs from one round to the next.

    Example:

    >>> schedule = kprune.schedules.Asymptotic(begin=0, end=15)
    >>> [round(schedule(e), 3) for e in (0, 1, 15)]
    [0.5, 0.75, 1.0]
    """

    def _share(self, progress: float) -> float:
        return (1.0 - math.exp(-_DECAY * progress)) / (1.0 - math.exp(-_DECAY))


# k of `Asymptotic`: u = exp(-k / 8) solves (1 - u) / (1 - u**8) = 3 / 4.
_DECAY = 11.089988552228323


class Increments(Schedule):
    """The same share of the costs in each round, training in between.

    With `step=0.03` the model trains each time another 3 % are gone, as in MSVFP
    (Ghimire and Kim, doi 10.3390/app13010316).

    Args:
        step: Share of the unpruned model's costs per round.
        target: Share that goes in all; `None` for the largest in `reduce`.
        begin: First epoch that prunes, from 0.
        every: Epochs of training after each round.

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
        for name, share in (("step", step), ("target", target)):
            if share is not None and not 0 < as_number(share) < 1:
                raise ValueError(
                    "Increments needs a share of the costs between 0 and 1 as "
                    f"`{name}`. Received: {name}={share!r}."
                )
        self.step = step
        self.target = target
        self.begin = _whole(begin, "Increments", "begin", 0)
        self.every = _whole(every, "Increments", "every", 1)

    def toward(self, reduce: Mapping[str, float]) -> Schedule:
        if self.target is not None or not reduce:
            return self
        config = {**self.get_config(), "target": max(reduce.values())}
        return Increments(**config)

    def fraction(self, epoch: int, epochs: int | None = None) -> float:
        rounds = self.rounds(epochs)
        done = sum(first <= epoch for first in rounds)
        share = done * self.step / (self.target or 1.0)
        return share if done < len(rounds) else 1.0

    def rounds(self, epochs: int | None = None) -> list[int]:
        if self.target is None:
            raise ValueError(
                f"{self!r} has no target. Give it one, target=0.5 for example."
            )
        count = math.ceil(self.target / self.step - 1e-9)
        rounds = [self.begin + n * self.every for n in range(count)]
        if epochs is not None and rounds[-1] >= epochs:
            raise ValueError(
                f"{self!r} takes {rounds[-1] + 1} epochs, but there are {epochs}. "
                f"Train longer, or use a larger step than {self.step}."
            )
        return rounds

    def get_config(self) -> dict[str, Any]:
        return dict(vars(self))


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


def _two_thirds(schedule: Schedule, begin: int, epochs: int | None) -> int:
    """Return the last epoch of the first two thirds, `begin` or later."""
    if epochs is None:
        raise ValueError(
            f"{schedule!r} ends after two thirds of the epochs, but how many "
            "there are is unknown here. Give it an end, for example "
            f"{type(schedule).__name__}(begin={begin}, end={begin + 10})."
        )
    return max(begin, 2 * epochs // 3 - 1)


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
register("constant")(Constant)
register("asymptotic")(Asymptotic)
register("increments")(Increments)


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
