"""Measure latency on the runtime that will run the file."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import math
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

from kprune.arguments import number
from kprune.arguments import whole
from kprune.export.intervals import median_interval
from kprune.export.operators import tflite_operators
from kprune.export.runtime import Runtime
from kprune.export.runtime import open_runtime
from kprune.export.trial import check_survives
from kprune.loading import load

_BLOCKS = 10

LARGEST_INPUT = 2**28
"""Maximum number of elements in an input that is drawn at random."""


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
        low: Lower end of the 95 % confidence interval of the median.
        high: Upper end; both are infinite if there are too few runs.
    """

    median: float
    p10: float
    p90: float
    runs: int
    threads: int
    runtime: str
    low: float = -math.inf
    high: float = math.inf

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain data; None for an infinite end."""
        fields = dataclasses.asdict(self)
        return {
            name: None
            if name in ("low", "high") and math.isinf(value)
            else value
            for name, value in fields.items()
        }

    def __str__(self) -> str:
        plural = "" if self.threads == 1 else "s"
        known = math.isfinite(self.low) and math.isfinite(self.high)
        interval = f"95 % CI {self.low:.3g}-{self.high:.3g}, " if known else ""
        return (
            f"{self.median:.3g} ms ({interval}p10 {self.p10:.3g}, "
            f"p90 {self.p90:.3g}; {self.runs} runs, {self.threads} "
            f"thread{plural}, {self.runtime})"
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
        runs: Minimum number of timed runs.
        seconds: Minimum total time of timed runs, in seconds. A tenth of it is
            spent before on warming up.
        inputs: Input name -> array. Defaults to random numbers, zeros for
            integers, and a batch of one sample where the batch size is open.

    Returns:
        Median, 10th and 90th percentile in milliseconds.

    Raises:
        ValueError: An argument does not fit, or an input has an unknown axis.
        ImportError: The runtime is not installed.

    Example:

    ```python
    print(kprune.benchmark("model.tflite", threads=2))
    ```
    """
    check_effort(runs, seconds)
    with as_file(path_or_model) as file:
        runtime = open_runtime(file, threads)
        runtime.prepare(random_inputs(runtime, inputs))
        warm_up(runtime.invoke, seconds / 10)
        times = time_runs(runtime.invoke, runs, seconds)
        return latency(times, threads, runtime.name)


@contextlib.contextmanager
def as_file(
    path_or_model: str | os.PathLike[str] | keras.Model,
) -> Iterator[Path]:
    """Yield a file that a runtime can open.

    Args:
        path_or_model: See `benchmark`.

    Yields:
        The given path, or the path of a temporary `.tflite` file.

    Raises:
        TypeError: It is neither a path nor a model.
    """
    if not isinstance(path_or_model, (str, os.PathLike, keras.Model)):
        raise TypeError(
            "Expected a path or a keras.Model. Received: "
            f"{path_or_model!r} of type {type(path_or_model).__name__}."
        )
    if not isinstance(path_or_model, keras.Model):
        path = Path(path_or_model)
        if path.suffix != ".keras" or not path.is_file():
            if path.suffix == ".tflite" and path.is_file():
                tflite_operators(path)  # the cheaper check first
                check_survives(path)
            yield path
            return
        path_or_model = load(path, compile=False)
    from kprune.export.api import export

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.tflite"
        # Only its latency matters, so few samples are enough to verify it.
        export(path_or_model, file, samples=2)
        yield file


def check_effort(runs: int, seconds: float) -> None:
    """Check the arguments of a benchmark.

    Raises:
        ValueError: `runs` is not a whole number above 0, or `seconds` is below 0.
    """
    whole(runs, "A benchmark", "runs")
    number(seconds, "A benchmark", "seconds", least=0)


def random_inputs(
    runtime: Runtime, given: Mapping[str, np.ndarray] | None = None
) -> Mapping[str, np.ndarray]:
    """Return inputs to time a model on.

    Args:
        runtime: The loaded model.
        given: Inputs by name. They are checked and returned if given.

    Returns:
        Input name -> array: seeded random numbers, zeros for integers, one
        sample where the batch size is open.

    Raises:
        ValueError: Names do not fit, or an input has another unknown axis.
    """
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
                f"Input {spec.name!r} of {os.fspath(runtime.path)!r} has the shape "
                f"{spec.shape}; give the unknown axes by passing "
                f"inputs={{{spec.name!r}: array, ...}}."
            )
        # Only the batch axis can still be unknown.
        shape = tuple(1 if n is None else n for n in spec.shape)
        drawable = 0 <= math.prod(shape) <= LARGEST_INPUT
        if not (drawable and _known(spec.dtype)):
            raise ValueError(
                f"Input {spec.name!r} of {os.fspath(runtime.path)!r} takes numbers "
                f"of shape {spec.shape} and type {spec.dtype}, which cannot be drawn. "
                f"If that is right, pass inputs={{{spec.name!r}: array, ...}}."
            )
        drawn[spec.name] = np.zeros(shape, spec.dtype)
        if "float" in spec.dtype:
            drawn[spec.name] += rng.standard_normal(shape).astype(spec.dtype)
    return drawn


def _known(dtype: str) -> bool:
    try:
        return np.dtype(dtype).kind in "fiubc"
    except TypeError:
        return False


def warm_up(invoke: Callable[[], Any], seconds: float) -> None:
    """Run until caches, thread pools and clock speed have settled.

    Args:
        invoke: One inference.
        seconds: Minimum time. There are at least 3 runs.
    """
    time_runs(invoke, 3, seconds)


def time_runs(
    invoke: Callable[[], Any],
    runs: int,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Time an action repeatedly.

    Args:
        invoke: The action to time.
        runs: Minimum number of runs.
        seconds: Minimum total time.
        clock: Function that returns the time in seconds.

    Returns:
        Milliseconds of each run.
    """
    times: list[float] = []
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


def latency(
    times: Sequence[float],
    threads: int,
    runtime: str,
    blocks: Sequence[float] | None = None,
) -> Latency:
    """Summarise timed runs.

    Args:
        times: Milliseconds of each run.
        threads: Number of CPU threads.
        runtime: Name of the runtime.
        blocks: Medians of the blocks in which the runs were timed. By default
            the runs are split into ten consecutive blocks.

    Returns:
        The summary.
    """
    p10, median, p90 = np.percentile(times, [10, 50, 90])
    if blocks is None:
        # Neighbouring runs resemble each other, so they are not independent
        # measurements. Blocks of them nearly are.
        count = _BLOCKS if len(times) >= _BLOCKS else 1
        blocks = [np.median(b) for b in np.array_split(times, count)]
    low, high = median_interval(blocks)
    return Latency(
        float(median),
        float(p10),
        float(p90),
        len(times),
        threads,
        runtime,
        low,
        high,
    )
