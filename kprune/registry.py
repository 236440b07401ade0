"""Strings to objects: the one way in which kprune resolves its choices."""

from __future__ import annotations

import difflib
import functools
import math
import numbers
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return the end of an error message: close matches and all known names.

    Args:
        name: What came.
        known: What is accepted.

    Returns:
        For example `"Did you mean 'l1'? Known names: 'l1', 'l2'."`.
    """
    names = [str(choice) for choice in known]
    close = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(map(repr, close))}? " if close else ""
    return f"{hint}Known names: {', '.join(map(repr, names)) or 'none'}."


def as_number(value: object) -> float:
    """Return a real number as a float, and NaN for all else (truth values too)."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return float(value) if real else math.nan  # type: ignore[arg-type]


class Registry:
    """Named factories of one kind of object.

    Args:
        kind: What is registered, for messages: `"criterion"`.
        base: Class of the registered objects; its instances pass through `get`.
        adapt: Turns a plain function into an instance of `base`.

    Example:

    ```python
    @kprune.criteria.register("largest_weight")
    class LargestWeight(kprune.criteria.GroupCriterion):
        def score(self, group):
            kernels = [m.matrix() for m in group.producers if m.name != "bias"]
            return np.abs(np.hstack(kernels)).max(axis=1)
    ```
    """

    def __init__(
        self, kind: str, base: type, adapt: Callable[[Callable[..., Any]], Any]
    ) -> None:
        self.kind = kind
        self.base = base
        self._adapt = adapt
        self._factories: dict[str, Callable[..., Any]] = {}

    @property
    def names(self) -> list[str]:
        """Registered names, sorted."""
        return sorted(self._factories)

    def register(self, name: str) -> Callable[[Any], Any]:
        """Return a decorator that registers a class or a plain function.

        Args:
            name: The string that stands for it.

        Returns:
            A decorator that gives its argument back unchanged.

        Raises:
            ValueError: `name` is taken.
        """
        if not isinstance(name, str) or not name:
            raise TypeError(
                f"A {self.kind} is registered under a string, for example "
                f'register("my_{self.kind}"). Received: {name!r}.'
            )
        if name in self._factories:
            raise ValueError(
                f"The {self.kind} name {name!r} is taken. Choose another one; "
                f"taken are: {', '.join(map(repr, self.names))}."
            )

        def decorator(thing: Any) -> Any:
            is_class = isinstance(thing, type) and issubclass(thing, self.base)
            self._factories[name] = (
                thing if is_class else functools.partial(self._adapt, thing)
            )
            return thing

        return decorator

    def get(self, identifier: Any, **arguments: Any) -> Any:
        """Resolve a name, an object or a plain function.

        Args:
            identifier: A registered name, an instance of the registry's class,
                or a function.
            **arguments: For the class that a name stands for.

        Returns:
            An instance of the registry's class.

        Raises:
            ValueError: An unknown name; the message lists the known ones.
            TypeError: Anything else that does not fit.
        """
        if isinstance(identifier, self.base):
            return identifier
        if isinstance(identifier, str):
            if identifier not in self._factories:
                raise ValueError(
                    f"Unknown {self.kind} {identifier!r}. "
                    f"{did_you_mean(identifier, self.names)}"
                )
            return self._factories[identifier](**arguments)
        if isinstance(identifier, type):
            raise TypeError(
                f"Expected a {self.kind}, received the class "
                f"{identifier.__name__}. Make an object of it: "
                f"{identifier.__name__}(...)."
            )
        if callable(identifier):
            return self._adapt(identifier, **arguments)
        raise TypeError(
            f"Expected a {self.kind}: one of {', '.join(map(repr, self.names))}, "
            f"a {self.base.__name__} object or a function. "
            f"Received: {identifier!r} (of type {type(identifier).__name__})."
        )
