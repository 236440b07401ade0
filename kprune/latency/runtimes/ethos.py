"""Arm's Ethos-U, as estimated by its compiler Vela."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import functools
import io
import re
import sys
import tempfile
from collections.abc import Iterator
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from typing import ClassVar

from kprune.arguments import choice
from kprune.export.quiet import quiet
from kprune.latency.runtimes.base import Runtime
from kprune.latency.runtimes.base import register
from kprune.tflite import OperatorFile

MEMORY_MODES = (
    "Sram_Only",
    "Shared_Sram",
    "Dedicated_Sram",
    "Dedicated_Sram_256KB",
    "Dedicated_Sram_384KB",
    "Dedicated_Sram_512KB",
)

_KIB = 1024
_NAMED = re.compile(r"operator(\d+)(?!\d)")


@dataclasses.dataclass(frozen=True)
class Compiled:
    """Vela's estimates for a file.

    Args:
        milliseconds: Time of one inference.
        sram: Bytes of SRAM.
        flash: Bytes of flash, on-chip and off-chip.
        rows: Name of the output and number of cycles of each compiled operator.
    """

    milliseconds: float
    sram: int
    flash: int
    rows: tuple[tuple[str, int], ...]


@register("ethos")
class Ethos(Runtime):
    """Ethos-U55, U65 or U85, as estimated by Arm's compiler Vela.

    No hardware is needed: Vela counts cycles for the clock and memory bandwidth of
    a configuration. It overlaps and fuses operators and loads the weights of one
    while another runs, so operators are timed in the whole model. Needs the extra
    `ethos`.

    Args:
        variant: Vela's name of a configuration without `ethos-`, such as
            `"u55-128"`.
        memory_mode: Vela's name of a memory mode, such as `"Sram_Only"`. Defaults
            to that of the configuration.

    Raises:
        ValueError: The configuration or memory mode is unknown.

    Example:

    ```python
    runtime = kprune.latency.runtimes.Ethos("u65-256", "Dedicated_Sram")
    kprune.latency.profile(model, runtime=runtime, dtype="int8")
    ```
    """

    variants: ClassVar[tuple[str, ...]] = (
        "u55-32",
        "u55-64",
        "u55-128",
        "u55-256",
        "u65-256",
        "u65-512",
        "u85-128",
        "u85-256",
        "u85-512",
        "u85-1024",
        "u85-2048",
    )
    dtypes: ClassVar[tuple[str, ...]] = ("int8",)
    io_dtype: ClassVar[str] = "int8"
    step: ClassVar[int] = 8
    block: ClassVar[int] = 16
    ahead: ClassVar[int] = 8 * _KIB

    def __init__(
        self, variant: str = "u55-128", memory_mode: str | None = None
    ) -> None:
        self.variant = choice(variant, "Ethos", "variant", self.variants)
        if memory_mode is not None:
            choice(memory_mode, "Ethos", "memory_mode", MEMORY_MODES)
        self.memory_mode = memory_mode
        self.name = f"ethos-{variant}" + (
            "" if memory_mode is None else f"/{memory_mode}"
        )

    @property
    def device(self) -> str:
        import importlib.metadata

        _vela()
        version = importlib.metadata.version("ethos-u-vela")
        mode = f", {self.memory_mode}" if self.memory_mode else ""
        return f"Arm Ethos-{self.variant.upper()}{mode}, Vela {version}"

    def measure(
        self, content: bytes, threads: int, runs: int, seconds: float
    ) -> float:
        # Operators that Vela leaves to the CPU take no cycles of the NPU.
        return max(self.compile(content).milliseconds, 1e-6)

    def operators(self, content: bytes) -> Sequence[float]:
        file = OperatorFile(content)
        named = file.named([f"operator{n}" for n in range(len(file.operators))])
        compiled = self.compile(named)
        cycles = [0.0] * len(file.operators)
        position = 0
        for name, count in compiled.rows:
            # The further parts of an operator that was split follow it.
            found = _NAMED.search(name)
            position = int(found[1]) if found else position
            cycles[position] += count
        total = sum(cycles) or 1.0
        return [compiled.milliseconds * count / total for count in cycles]

    def memory(self, content: bytes) -> float:
        return float(self.compile(content).sram)

    def compile(self, content: bytes) -> Compiled:
        """Compile a `.tflite` file with Vela and return its estimates.

        Args:
            content: Bytes of the file.

        Raises:
            ImportError: The extra `ethos` is not installed.
            RuntimeError: Vela cannot compile the file.
        """
        options = ["--accelerator-config", f"ethos-{self.variant}"]
        if self.memory_mode is not None:
            options += ["--memory-mode", self.memory_mode]
        return _compile(self.name, tuple(options), content)


# Time and memory of a file are read one after the other, from one run of Vela.
@functools.lru_cache(maxsize=8)
def _compile(name: str, options: tuple[str, ...], content: bytes) -> Compiled:
    """Return Vela's figures for a file.

    Args:
        name: Name of the runtime, for messages.
        options: Command-line options of Vela.
        content: Content of the file.
    """
    vela = _vela()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        path.write_bytes(content)
        arguments = [str(path), *options, "--output-dir", folder]
        arguments.append("--verbose-performance")
        said = io.StringIO()
        with _undisturbed(), contextlib.redirect_stdout(said):
            try:
                failed = vela.main(arguments)
            except (Exception, SystemExit) as error:
                raise _refused(name, str(error)) from error
        summaries = sorted(Path(folder).glob("*_summary_*.csv"))
        if failed or not summaries:
            raise _refused(name, said.getvalue())
        (summary,) = _rows(summaries[0])
        layers = [
            row
            for file in Path(folder).glob("*per-layer.csv")
            for row in _rows(file)
        ]
    flash = ("on_chip_flash_memory_used", "off_chip_flash_memory_used")
    return Compiled(
        1e3 * float(summary["inference_time"]),
        round(_KIB * float(summary["sram_memory_used"])),
        round(_KIB * sum(float(summary[key]) for key in flash)),
        tuple((row["Name"], int(row["Op Cycles"])) for row in layers),
    )


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Suppress Vela's output, and restore the recursion limit that it changes."""
    limit = sys.getrecursionlimit()
    try:
        with quiet(stdout=True):
            yield
    finally:
        sys.setrecursionlimit(limit)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _refused(name: str, said: str) -> RuntimeError:
    text = " ".join(said.split())[-300:]
    return RuntimeError(
        f"Vela cannot compile the model for {name!r}: {text or 'no reason given'}"
    )


def _vela() -> Any:
    try:
        from ethosu.vela import vela
    except ImportError as error:
        raise ImportError(
            "Latencies of Ethos-U are estimated by Arm's compiler Vela. Install it "
            'with `pip install "kprune[ethos]"`.'
        ) from error
    return vela
