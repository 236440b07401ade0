"""The base class of runtimes, and how to find and register them."""

from __future__ import annotations

import abc
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import ClassVar

from kprune.arguments import choice
from kprune.latency.device import device_name
from kprune.parts import Part
from kprune.registry import Registry


class Runtime(Part, abc.ABC):
    """Times small files with one operator or a few."""

    variants: ClassVar[tuple[str, ...]] = ()
    """Endings of the registered name, such as `"u55-128"` in `"ethos-u55-128"`."""

    dtypes: ClassVar[tuple[str, ...]] = ("float32", "int8")
    """Supported number formats; the first is the default."""

    io_dtype: ClassVar[str] = "float32"
    """Number format of the inputs and outputs of int8 files."""

    packages: ClassVar[tuple[str, ...]] = ()
    """Packages that it may run in; the version of the first one found counts."""

    step: ClassVar[int] = 1
    """Number of channels processed at once, for a runtime with `operators`."""

    name = ""
    """Name in tables, from which `get` makes it. A class with arguments sets it."""

    @property
    def device(self) -> str:
        """Name of the device."""
        return device_name(*self.packages)

    def check_dtype(self, dtype: str) -> None:
        """Raise unless it supports a number format.

        Raises:
            ValueError: It does not.
        """
        if dtype not in self.dtypes:
            raise ValueError(
                f"Runtime {self.name!r} runs {' and '.join(self.dtypes)}. Received: "
                f"dtype={dtype!r}."
            )

    @abc.abstractmethod
    def measure(
        self, content: bytes, threads: int, runs: int, seconds: float
    ) -> float:
        """Return the time of a `.tflite` file in milliseconds.

        Args:
            content: Bytes of the file.
            threads: Number of CPU threads.
            runs: Minimum number of timed runs.
            seconds: Minimum total time of timed runs.
        """

    block: ClassVar[int] = 1
    """Multiple that channels are rounded up to in memory."""

    ahead: ClassVar[int] = 0
    """Bytes of weights that this memory holds at once, or 0."""

    memory: Callable[[bytes], float] | None = None
    """Function that returns the bytes that a whole `.tflite` file needs to run.

    Leave it None if the memory is not known.
    """

    operators: Callable[[bytes], Sequence[float]] | None = None
    """Function that returns the milliseconds of each operator of a `.tflite` file.

    If a runtime defines it, operators are timed together with their neighbours
    instead of being cut out. Compilers that fuse and prefetch need this.
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
        identifier: A registered name such as `"litert"`, with a variant and an
            option for some: `"ethos-u55-128"` or `"ethos-u55-128/Sram_Only"`; a
            `Runtime`; or a function
            `f(content, threads, runs, seconds) -> milliseconds`.

    Raises:
        ValueError: The name is unknown. The message lists the known ones.
    """
    if not isinstance(identifier, str):
        runtime: Runtime = registry.get(identifier)
        runtime.name = runtime.name or _registered(type(runtime))
        return runtime
    if identifier in registry.names:
        runtime = registry.get(identifier)
    else:
        name, slash, option = identifier.partition("/")
        family, *variant = _all()[choice(name, "A latency", "runtime", names())]
        if slash and not variant:
            raise ValueError(
                f"Runtime {name!r} takes no option. Received: {identifier!r}."
            )
        options = [option] if slash else []
        runtime = registry.factory(family)(*variant, *options)
    runtime.name = identifier
    return runtime


def names() -> list[str]:
    """Return all names that `get` knows, including each variant."""
    return [*_all()]


def _all() -> dict[str, tuple[str, ...]]:
    """Return full name -> the registered name, and the variant if there is one."""
    found: dict[str, tuple[str, ...]] = {}
    for name in registry.names:
        variants = getattr(registry.factory(name), "variants", ())
        if variants:
            found |= {f"{name}-{v}": (name, v) for v in variants}
        else:
            found[name] = (name,)
    return found


def _registered(kind: type) -> str:
    """Return the name that a class is registered under; `""` if it is not."""
    return next((n for n in registry.names if registry.factory(n) is kind), "")
