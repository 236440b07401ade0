"""What a runtime is: it tells how long operators take."""

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
    """Runs small files, each with one operator or a few, and times them."""

    variants: ClassVar[tuple[str, ...]] = ()
    """What may follow the registered name: `"u55-128"` of `"ethos-u55-128"`."""

    dtypes: ClassVar[tuple[str, ...]] = ("float32", "int8")
    """Number formats that it runs; the first is the default."""

    io_dtype: ClassVar[str] = "float32"
    """Number format of the inputs and outputs of int8 files."""

    step: ClassVar[int] = 1
    """Channels that are worked on at once, of a runtime that tells `operators`."""

    name = ""
    """How tables call it: what `get` makes it of. A class with arguments sets it."""

    @property
    def device(self) -> str:
        """The device in words."""
        return device_name()

    def check_dtype(self, dtype: str) -> None:
        """Raise unless it runs a number format."""
        if dtype not in self.dtypes:
            raise ValueError(
                f"Runtime {self.name!r} runs {' and '.join(self.dtypes)}. Received: "
                f"dtype={dtype!r}."
            )

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

    block: ClassVar[int] = 1
    """What channels are rounded up to in memory, of a runtime that tells it."""

    ahead: ClassVar[int] = 0
    """Bytes of weights that are in that memory at once, if it holds any."""

    memory: Callable[[bytes], float] | None = None
    """Returns the bytes that a whole `.tflite` file takes while it runs."""

    operators: Callable[[bytes], Sequence[float]] | None = None
    """Returns the milliseconds of each operator of a whole `.tflite` file.

    Where a runtime defines it, operators are not cut out: they are seen beside
    their neighbours, as compilers that fuse and prefetch need it.
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
        identifier: A registered name such as `"litert"`, for some with a variant
            and an option, `"ethos-u55-128"` or `"ethos-u55-128/Sram_Only"`; a
            `Runtime`; or a function
            `f(content, threads, runs, seconds) -> milliseconds`.

    Raises:
        ValueError: An unknown name; the message lists the known ones.
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
    """Return all names that `get` knows; of variants, in place of the family's."""
    return [*_all()]


def _all() -> dict[str, tuple[str, ...]]:
    """Return, by full name, the registered name and the variant if there is one."""
    found: dict[str, tuple[str, ...]] = {}
    for name in registry.names:
        variants = getattr(registry.factory(name), "variants", ())
        if variants:
            found |= {f"{name}-{v}": (name, v) for v in variants}
        else:
            found[name] = (name,)
    return found


def _registered(kind: type) -> str:
    """Return the name that a class is registered under; nothing if it is not."""
    return next((n for n in registry.names if registry.factory(n) is kind), "")
