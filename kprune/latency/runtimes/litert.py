"""The LiteRT interpreter on this machine."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import ClassVar

import numpy as np

from kprune.export.benchmark import random_inputs
from kprune.export.benchmark import time_runs
from kprune.export.runtime import LiteRT as Interpreter
from kprune.export.runtime import Runtime as FileRuntime
from kprune.latency.runtimes.base import Runtime
from kprune.latency.runtimes.base import register

_QUANTILE = 0.25
"""A low quantile, because other work on the machine can only make runs longer."""


@register("litert")
class LiteRT(Runtime):
    """The LiteRT interpreter on the CPU. Times are the lower quartile of all runs."""

    packages: ClassVar[tuple[str, ...]] = ("ai-edge-litert", "tensorflow")

    def measure(
        self, content: bytes, threads: int, runs: int, seconds: float
    ) -> float:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "operator.tflite"
            path.write_bytes(content)
            return timed(Interpreter(path, threads), runs, seconds)


def timed(runtime: FileRuntime, runs: int, seconds: float) -> float:
    """Return the time of an opened file in milliseconds.

    Args:
        runtime: The opened file.
        runs: Minimum number of timed runs.
        seconds: Minimum total time of timed runs.
    """
    runtime.prepare(random_inputs(runtime))
    time_runs(runtime.invoke, 3, seconds / 10)
    times = time_runs(runtime.invoke, runs, seconds)
    return float(np.quantile(times, _QUANTILE))
