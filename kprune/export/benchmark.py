"""Latency, measured on the runtime that will run the file."""

from __future__ import annotations

import contextlib
import gc
import os
import tempfile
import time
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kprune.export.runtime import Runtime
from kprune.export.runtime import open_runtime


@dataclass(frozen=True)
class Latency:
    """Time of one inference, in milliseconds.

    Args:
        median: Median over all runs.
        p10: 10th percentile.
        p90: 90th percentile.
        runs: Number of timed runs.
        threads: Number of CPU threads.
        runtime: `"LiteRT"` or `"ONNX Runtime"`.
    """

    median: float
    p10: float
    p90: float
    runs: int
    threads: int
    runtime: str

    def __str__(self) -> str:
        plural = "" if self.threads == 1 else "s"
        return (
            f"{self.median:.3g} ms (p10 {self.p10:.3g}, p90 {self.p90:.3g}; "
            f"{self.runs} runs, {self.threads} thread{plural}, {self.runtime})"
        )


def benchmark(
    path_or_model: str | os.PathLike[str] | keras.Model,
    threads: int = 1,
    runs: int = 50,
    seconds: float = 1.0,
    inputs: Mapping[str, np.ndarray] | None = None,
) -> Latency:
    """Measure how long one inference takes.

    Args:
        path_or_model: A `.tflite` or `.onnx` file, or a Keras model (in memory or
            a `.keras` file), which is converted to a temporary float32 `.tflite`
            file with batch size 1.
        threads: Number of CPU threads.
        runs: Least number of timed runs.
        seconds: Least time spent on timed runs; a tenth of it warms up.
        inputs: Input name -> array. By default random numbers, zeros for
            integers, and a batch of one sample where the batch size is open.

    Returns:
        Median, 10th and 90th percentile in milliseconds.

    Raises:
        ValueError: If an argument does not fit, or an input has an unknown axis.

    Example:

    ```python
    print(kprune.benchmark("model.tflite", threads=2))
    ```
    """
    _check_effort(runs, seconds)
    with opened(path_or_model, threads) as runtime:
        runtime.prepare(_inputs(runtime, inputs))
        warm_up(runtime.invoke, seconds / 10)
        times = time_runs(runtime.invoke, runs, seconds)
        return latency(times, threads, runtime.name)


@contextlib.contextmanager
def opened(
    path_or_model: str | os.PathLike[str] | keras.Model, threads: int
) -> Iterator[Runtime]:
    """Yield a loaded runtime for a file or a Keras model.

    Args:
        path_or_model: See `benchmark`.
        threads: Number of CPU threads.

    Yields:
        The runtime.
    """
    if not isinstance(path_or_model, (str, os.PathLike, keras.Model)):
        raise TypeError(
            "Expected a path or a keras.Model. Received: "
            f"{path_or_model!r} of type {type(path_or_model).__name__}."
        )
    if not isinstance(path_or_model, keras.Model):
        path = Path(path_or_model)
        if path.suffix != ".keras" or not path.is_file():
            yield open_runtime(path, threads)
            return
        path_or_model = keras.models.load_model(path, compile=False)
    from kprune.export.api import export

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.tflite"
        # Its time is asked for; a few samples show that it is the right model.
        export(path_or_model, file, samples=2)
        yield open_runtime(file, threads)


def _check_effort(runs: int, seconds: float) -> None:
    if isinstance(runs, bool) or not isinstance(runs, int) or runs < 1:
        raise ValueError(f"`runs` must be an integer >= 1. Received: {runs!r}.")
    if seconds < 0:
        raise ValueError(f"`seconds` must be >= 0. Received: {seconds!r}.")


def _inputs(
    runtime: Runtime, given: Mapping[str, np.ndarray] | None
) -> Mapping[str, np.ndarray]:
    names = {spec.name for spec in runtime.inputs}
    if given is not None:
        if set(given) != names:
            raise ValueError(
                f"The model's inputs are {sorted(names)}. Received `inputs` for "
                f"{sorted(given)}."
            )
        return given
    rng = np.random.default_rng(0)
    drawn = {}
    for spec in runtime.inputs:
        if None in spec.shape[1:]:
            raise ValueError(
                f"Input {spec.name!r} has the shape {spec.shape}; give the unknown "
                f"axes by passing inputs={{{spec.name!r}: array, ...}}."
            )
        # What is left unknown is the batch axis.
        shape = tuple(1 if n is None else n for n in spec.shape)
        drawn[spec.name] = np.zeros(shape, spec.dtype)
        if "float" in spec.dtype:
            drawn[spec.name] += rng.standard_normal(shape).astype(spec.dtype)
    return drawn


def warm_up(invoke: Callable[[], Any], seconds: float) -> None:
    """Run until caches, thread pools and clock speed have settled.

    Args:
        invoke: One inference.
        seconds: Least time; it runs at least 3 times.
    """
    time_runs(invoke, 3, seconds)


def time_runs(
    invoke: Callable[[], Any], runs: int, seconds: float
) -> list[float]:
    """Time an action again and again.

    Args:
        invoke: What to time.
        runs: Least number of runs.
        seconds: Least total time.

    Returns:
        Milliseconds of each run.
    """
    times: list[float] = []
    clock = time.perf_counter
    collecting = gc.isenabled()
    gc.disable()
    try:
        end = clock() + seconds
        while len(times) < runs or clock() < end:
            start = clock()
            invoke()
            times.append((clock() - start) * 1e3)
    finally:
        if collecting:
            gc.enable()
    return times


def latency(times: Sequence[float], threads: int, runtime: str) -> Latency:
    """Summarise timed runs.

    Args:
        times: Milliseconds of each run.
        threads: Number of CPU threads.
        runtime: Name of the runtime.

    Returns:
        The summary.
    """
    p10, median, p90 = np.percentile(times, [10, 50, 90])
    return Latency(
        float(median), float(p10), float(p90), len(times), threads, runtime
    )
