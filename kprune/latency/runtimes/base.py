"""What a runtime is: it tells how long operators take."""

from __future__ import annotations

import abc
from typing import Any

from kprune.parts import Part
from kprune.registry import Registry


class Runtime(Part, abc.ABC):
    """Runs small files, each with one operator or a few, and times them."""

    @abc.abstractmethod
    def measure(
        self, content: bytes, threads: int, runs: int, seconds: float
    ) -> float:
        """Return how long a `.tflite` file takes, in milliseconds.

        Args:
            content: The file.
            threads: CPU threads.
            runs: Timed runs at least.
            seconds: Time spent on timed runs at least.
        """


class FunctionRuntime(Runtime):
    """A plain function as a runtime.

    Args:
        function: `f(content, threads, runs, seconds) -> milliseconds`.
    """

    def __init__(self, function: Any) -> None:
        self.function = function

    def measure(
        self, content: bytes, threads: int, runs: int, seconds: float
    ) -> float:
        return float(self.function(content, threads, runs, seconds))


registry = Registry("runtime", Runtime, FunctionRuntime, "runtimes")
register = registry.register


def get(identifier: Any) -> Runtime:
    """Return a runtime.

    Args:
        identifier: A registered name such as `"litert"`, a `Runtime`, or a
            function `f(content, threads, runs, seconds) -> milliseconds`.

    Raises:
        ValueError: An unknown name; the message lists the known ones.
    """
    runtime: Runtime = registry.get(identifier)
    return runtime


def names() -> list[str]:
    """Return all names that `get` knows."""
    return registry.names
