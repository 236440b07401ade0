"""By how much attenuation scales weak filters, period by period."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable
from typing import Any

from kprune.registry import Registry
from kprune.registry import as_number


@dataclasses.dataclass(frozen=True, kw_only=True)
class Factor(abc.ABC):
    """Maps the progress of a run to the factor for weak filters.

    Factors keep no state: what they give follows from the progress alone.

    Args:
        tail: How many of the last periods fade out one set of weak filters: it
            is chosen at the first of them and its filters are brought linearly
            from there to exactly 0, where they are removed. 0 for none. A
            factor of 0 stays 0 in its tail.
        scale_slots: Also scale what the optimizer remembers of the weights
            (momenta and the like), which would otherwise go on pulling at them.
    """

    tail: int = 0
    scale_slots: bool = False

    def __post_init__(self) -> None:
        tail = as_number(self.tail)
        if not tail >= 0 or tail % 1:
            raise ValueError(
                f"{type(self).__name__} needs a whole number of periods, 0 or "
                f"more, as `tail`. Received: tail={self.tail!r}."
            )
        for field in dataclasses.fields(self):
            if field.type == "float":
                self._check(field.name, getattr(self, field.name))

    def _check(self, argument: str, value: Any) -> None:
        if not 0 <= as_number(value) <= 1:
            raise ValueError(
                f"{type(self).__name__} needs a number from 0 (as soft filter "
                "pruning) to 1 (does nothing) as "
                f"`{argument}`. Received: {argument}={value!r}."
            )

    @abc.abstractmethod
    def factor(self, progress: float) -> float:
        """Return the factor, in [0, 1].

        Args:
            progress: `k/K` in round k of K, above 0, up to 1.
        """

    def __call__(self, progress: float) -> float:
        return self.factor(progress)


@dataclasses.dataclass(frozen=True)
class Constant(Factor):
    """The same factor in every period.

    After k consecutive hits a filter that does not learn is at `value ** k`.

    Args:
        value: The factor; 0 is soft filter pruning, 1 does nothing.
        tail: As of `Factor`.
        scale_slots: As of `Factor`.

    Example:

    >>> [kprune.factors.Constant(0.5)(p) for p in (0.5, 1.0)]
    [0.5, 0.5]
    """

    value: float = 0.5

    def factor(self, progress: float) -> float:
        return float(self.value)


@dataclasses.dataclass(frozen=True)
class Linear(Factor):
    """From `start` to `stop` in equal steps.

    Args:
        start: The factor before the first period.
        stop: The factor in the last one.
        tail: As of `Factor`.
        scale_slots: As of `Factor`.

    Example:

    >>> [kprune.factors.Linear()(p) for p in (0.25, 0.5, 1.0)]
    [0.75, 0.5, 0.0]
    """

    start: float = 1.0
    stop: float = 0.0

    def factor(self, progress: float) -> float:
        return self.start + (self.stop - self.start) * progress


@dataclasses.dataclass(frozen=True)
class Exponential(Factor):
    """From `start` to `stop` by equal ratios.

    Args:
        start: The factor before the first period, above 0.
        stop: The factor in the last one, above 0.
        tail: As of `Factor`.
        scale_slots: As of `Factor`.

    Example:

    >>> kprune.factors.Exponential(stop=0.01)(0.5)
    0.1
    """

    start: float = 1.0
    stop: float = 0.01

    def _check(self, argument: str, value: Any) -> None:
        super()._check(argument, value)
        if not value:
            raise ValueError(
                f"Exponential needs numbers above 0, since equal ratios never "
                f"lead to 0. Received: {argument}={value!r}. Use Linear or Cosine, "
                "or a tail."
            )

    def factor(self, progress: float) -> float:
        return self.start * (self.stop / self.start) ** progress


@dataclasses.dataclass(frozen=True)
class Cosine(Factor):
    """From `start` to `stop` along half a cosine: slow, fast, slow.

    Args:
        start: The factor before the first period.
        stop: The factor in the last one.
        tail: As of `Factor`.
        scale_slots: As of `Factor`.

    Example:

    >>> [round(kprune.factors.Cosine()(p), 3) for p in (0.25, 0.5, 1.0)]
    [0.854, 0.5, 0.0]
    """

    start: float = 1.0
    stop: float = 0.0

    def factor(self, progress: float) -> float:
        left = (1.0 + math.cos(math.pi * progress)) / 2.0
        return self.stop + (self.start - self.stop) * left


@dataclasses.dataclass(frozen=True)
class Function(Factor):
    """A plain function of the progress.

    Args:
        function: `f(progress) -> factor`, both from 0 to 1.
        tail: As of `Factor`.
        scale_slots: As of `Factor`.

    Example:

    >>> kprune.factors.Function(lambda p: 1 - p**2, tail=3)(0.5)
    0.75
    """

    function: Callable[[float], float]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.function):
            raise TypeError(
                "Function needs a function f(progress) -> factor. Received: "
                f"{self.function!r}."
            )

    def factor(self, progress: float) -> float:
        value = self.function(progress)
        if not 0 <= as_number(value) <= 1:
            name = getattr(self.function, "__name__", repr(self.function))
            raise ValueError(
                f"The factor function {name} must return a number from 0 to 1. "
                f"It returned {value!r} for progress {progress:g}."
            )
        return float(value)


_registry = Registry("factor", Factor, Function)
register = _registry.register
register("constant")(Constant)
register("linear")(Linear)
register("exponential")(Exponential)
register("cosine")(Cosine)


def get(identifier: Any) -> Factor:
    """Return a factor.

    Args:
        identifier: `"constant"` (0.5), `"linear"` or `"cosine"` (1 to 0),
            `"exponential"` (1 to 0.01) or another registered name, a number
            from 0 to 1, a `Factor`, or a function `f(progress) -> factor`.

    Returns:
        A `Factor`.

    Raises:
        ValueError: An unknown name (the message lists the known ones), or a
            number outside of [0, 1].
        TypeError: Anything else that does not fit.

    Example:

    >>> kprune.factors.get(0.25)(progress=0.5)
    0.25
    """
    if not math.isnan(as_number(identifier)):
        return Constant(identifier)
    found: Factor = _registry.get(identifier)
    return found


def names() -> list[str]:
    """Return all names that `get` knows."""
    return _registry.names
