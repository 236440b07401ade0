"""Interleaved latency measurement of several models."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import keras
import numpy as np

from kprune.export.benchmark import Latency
from kprune.export.benchmark import _check_effort
from kprune.export.benchmark import _inputs
from kprune.export.benchmark import latency
from kprune.export.benchmark import opened
from kprune.export.benchmark import time_runs
from kprune.export.benchmark import warm_up

_BOOTSTRAPS = 2000


@dataclass(frozen=True)
class Ratio:
    """Latency of one model divided by that of the first, with its interval.

    Args:
        value: Median over rounds of the ratio of the two medians of a round.
        low: Lower end of the 95 % bootstrap confidence interval.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """`"faster"`, `"slower"`, or `"no difference shown"`."""
        if self.high < 1:
            return "faster"
        return "slower" if self.low > 1 else "no difference shown"

    def __str__(self) -> str:
        return f"{self.value:.3f}x [{self.low:.3f}, {self.high:.3f}] {self.verdict}"


@dataclass(frozen=True)
class Comparison:
    """Latencies that were measured in turns.

    Args:
        names: Name of each model.
        latencies: Latency of each model.
        ratios: Ratio of each model to the first; the first one's is exactly 1.
    """

    names: tuple[str, ...]
    latencies: tuple[Latency, ...]
    ratios: tuple[Ratio, ...]

    def __str__(self) -> str:
        width = max(map(len, self.names))
        rows = zip(self.names, self.latencies, self.ratios, strict=True)
        return "\n".join(
            f"{name:<{width}}  {time}" + (f"  {ratio}" if position else "")
            for position, (name, time, ratio) in enumerate(rows)
        )


def compare(
    models: Sequence[str | os.PathLike[str] | keras.Model],
    threads: int = 1,
    rounds: int = 30,
    seconds: float = 2.0,
    seed: int = 0,
) -> Comparison:
    """Measure models in turns, so that a noisy machine still gives a verdict.

    Every round times a block of runs of each model, in an order shuffled anew.
    A disturbance hits neighbouring blocks alike and cancels in their ratio; the
    rounds are resampled for the confidence interval.

    Args:
        models: Two or more `.tflite` or `.onnx` files or Keras models. The
            first is what the others are compared with.
        threads: Number of CPU threads.
        rounds: Number of rounds, at least 5.
        seconds: Least time per model over all rounds.
        seed: Seed of the order and the bootstrap.

    Returns:
        Latencies and ratios.

    Raises:
        ValueError: If fewer than two models or 5 rounds are given.

    Example:

    ```python
    print(kprune.compare(["original.tflite", "compact.tflite"]))
    ```
    """
    if isinstance(models, (str, os.PathLike, keras.Model)) or len(models) < 2:
        raise ValueError(f"Expected two or more models. Received: {models!r}.")
    if not isinstance(rounds, int) or rounds < 5:
        raise ValueError(
            f"`rounds` must be an integer >= 5. Received: {rounds!r}."
        )
    _check_effort(rounds, seconds)
    rng = np.random.default_rng(seed)
    with contextlib.ExitStack() as stack:
        runtimes = [stack.enter_context(opened(m, threads)) for m in models]
        for runtime in runtimes:
            runtime.prepare(_inputs(runtime, None))
            warm_up(runtime.invoke, seconds / 10)
        blocks: list[list[list[float]]] = [[] for _ in runtimes]
        for _ in range(rounds):
            for position in rng.permutation(len(runtimes)):
                invoke = runtimes[position].invoke
                # The other models have pushed this one's weights out of the
                # cache; the first run of a block pays for that.
                invoke()
                blocks[position].append(time_runs(invoke, 3, seconds / rounds))
    medians = np.array(
        [[np.median(block) for block in rows] for rows in blocks]
    )
    return Comparison(
        tuple(_name(model) for model in models),
        tuple(
            latency(list(chain.from_iterable(rows)), threads, runtime.name)
            for rows, runtime in zip(blocks, runtimes, strict=True)
        ),
        tuple(_ratio(row / medians[0], rng) for row in medians),
    )


def _name(model: str | os.PathLike[str] | keras.Model) -> str:
    return model.name if isinstance(model, keras.Model) else os.fspath(model)


def _ratio(ratios: np.ndarray, rng: np.random.Generator) -> Ratio:
    draws = rng.integers(0, len(ratios), (_BOOTSTRAPS, len(ratios)))
    resampled = np.median(ratios[draws], axis=1)
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Ratio(float(np.median(ratios)), float(low), float(high))
