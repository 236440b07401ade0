"""What a factor is: by how much attenuation scales weak filters."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from typing import Any

from kprune.arguments import as_number
from kprune.arguments import name_of
from kprune.arguments import share
from kprune.arguments import whole
from kprune.parts import Value
from kprune.registry import Registry


class Factor(Value, abc.ABC):
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

    def __init__(self, *, tail: int = 0, scale_slots: bool = False) -> None:
        self.tail = whole(tail, type(self).__name__, "tail", 0, "periods")
        self.scale_slots = scale_slots

    @abc.abstractmethod
    def factor(self, progress: float) -> float:
        """Return the factor, in [0, 1].

        Args:
            progress: `k/K` in round k of K, above 0, up to 1.
        """

    def __call__(self, progress: float) -> float:
        return self.factor(progress)


def checked(factor: Factor, argument: str, value: Any) -> float:
    """Return a factor that a constructor was given, from 0 to 1."""
    why = ": 0 is soft filter pruning, 1 does nothing"
    owner = type(factor).__name__
    return share(value, owner, argument, zero=True, one=True, why=why)


class Function(Factor):
    """A plain function of the progress.

    Args:
        function: `f(progress) -> factor`, both from 0 to 1.
        tail: See `Factor`.
        scale_slots: See `Factor`.

    Example:

    >>> kprune.factors.Function(lambda p: 1 - p**2, tail=3)(0.5)
    0.75
    """

    def __init__(
        self,
        function: Callable[[float], float],
        *,
        tail: int = 0,
        scale_slots: bool = False,
    ) -> None:
        super().__init__(tail=tail, scale_slots=scale_slots)
        if not callable(function):
            raise TypeError(
                "Function needs a function f(progress) -> factor. Received: "
                f"{function!r}."
            )
        self.function = function

    def factor(self, progress: float) -> float:
        value = self.function(progress)
        if not 0 <= as_number(value) <= 1:
            raise ValueError(
                f"The factor function {name_of(self.function)} must return a number "
                f"from 0 to 1. It returned {value!r} for progress {progress:g}."
            )
        return float(value)


registry = Registry("factor", Factor, Function, "factors")
register = registry.register


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
        return registry.get("constant", value=identifier)
    found: Factor = registry.get(identifier)
    return found


def names() -> list[str]:
    """Return all names that `get` knows."""
    return registry.names
