"""Base classes of attenuation-factor schedules."""

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
    """Base class of factors, which map the progress of a run to a factor.

    Weak filters are multiplied with the factor. Factors have no state: they depend
    only on the progress.

    Args:
        tail: Number of last periods that fade out a fixed set of weak filters. It
            is chosen at the first of them; its filters then fall linearly to
            exactly 0 and are removed. A factor of 0 stays 0 in the tail.
        scale_slots: Whether to scale the optimizer's slots (such as momenta) too,
            which would otherwise keep changing the weights.
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
    """Return a factor given to a constructor after checking that it is in [0, 1]."""
    why = ": 0 is soft filter pruning, 1 does nothing"
    owner = type(factor).__name__
    return share(value, owner, argument, zero=True, one=True, why=why)


class Function(Factor):
    """A plain function of the progress as a factor.

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
        ValueError: If a name is unknown (the message lists the known ones), or a
            number is outside [0, 1].
        TypeError: If the identifier is of another type.

    Example:

    >>> kprune.factors.get(0.25)(progress=0.5)
    0.25
    """
    if not math.isnan(as_number(identifier)):
        return registry.get("constant", value=identifier)
    found: Factor = registry.get(identifier)
    return found


def names() -> list[str]:
    """Return all names that `get` accepts."""
    return registry.names
