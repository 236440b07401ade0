"""Timing of small `.tflite` files on this machine."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from kprune.export.benchmark import random_inputs
from kprune.export.benchmark import time_runs
from kprune.export.runtime import LiteRT

QUANTILE = 0.25
"""Other work on the machine can only make runs longer."""


def measure(content: bytes, threads: int, runs: int, seconds: float) -> float:
    """Return how long a `.tflite` file takes.

    Args:
        content: The file.
        threads: CPU threads.
        runs: Timed runs at least.
        seconds: Time spent on timed runs at least.

    Returns:
        Milliseconds: the lower quartile of all runs.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "operator.tflite"
        path.write_bytes(content)
        runtime = LiteRT(path, threads)
        runtime.prepare(random_inputs(runtime))
        time_runs(runtime.invoke, 3, seconds / 10)
        times = time_runs(runtime.invoke, runs, seconds)
    return float(np.quantile(times, QUANTILE))
