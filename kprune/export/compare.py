"""Measure the latency of several models in turns."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import keras

from kprune.arguments import whole
from kprune.export.benchmark import Latency
from kprune.export.benchmark import as_file
from kprune.export.benchmark import check_effort
from kprune.export.benchmark import latency
from kprune.export.benchmark import random_inputs
from kprune.export.intervals import FEWEST
from kprune.export.intervals import Ratio
from kprune.export.rounds import Rounds
from kprune.export.runtime import open_runtime


@dataclass(frozen=True)
class Comparison:
    """Latencies of models measured in turns.

    Args:
        names: Name of each model.
        latencies: Latency of each model.
        ratios: Ratio of each model to the first; the first one's is exactly 1.
        rounds: Number of rounds.
    """

    names: tuple[str, ...]
    latencies: tuple[Latency, ...]
    ratios: tuple[Ratio, ...]
    rounds: int

    @property
    def verdicts(self) -> tuple[str, ...]:
        """One sentence for each model except the first."""
        labels = short_names(self.names)
        return tuple(
            ratio.sentence(label, labels[0])
            for label, ratio in zip(labels[1:], self.ratios[1:], strict=True)
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain numbers, strings, lists and dictionaries.

        Returns:
            Data for `json.dumps`.
        """
        rows = zip(self.names, self.latencies, self.ratios, strict=True)
        return {
            "rounds": self.rounds,
            "models": [
                {"name": name, **time.to_dict(), "ratio": ratio.to_dict()}
                for name, time, ratio in rows
            ],
            "verdicts": list(self.verdicts),
        }

    def __str__(self) -> str:
        width = max(map(len, self.names))
        rows = zip(self.names, self.latencies, strict=True)
        lines = [f"{name:<{width}}  {time}" for name, time in rows]
        return "\n".join([*lines, *self.verdicts])


def compare(
    models: Sequence[str | os.PathLike[str] | keras.Model],
    threads: int = 1,
    rounds: int = 30,
    seconds: float = 2.0,
    seed: int = 0,
    precision: float | None = None,
    time_limit: float = 60.0,
) -> Comparison:
    """Compare the latency of models by measuring them in turns.

    This gives a verdict even on a noisy machine. Each round loads every model again
    and times a block of its runs, in a new random order. A disturbance affects
    neighbouring blocks alike and cancels in their ratio. The ratios of all rounds
    give a confidence interval.

    Args:
        models: Two or more `.tflite` or `.onnx` files or Keras models. The others
            are compared with the first.
        threads: Number of CPU threads.
        rounds: Number of rounds, at least 6.
        seconds: Minimum time per model, summed over these rounds.
        seed: Seed of the order.
        precision: Keep doubling the number of rounds while an interval is wider
            than this share of the ratio, for example 0.02 for two percent. None
            stops after `rounds`.
        time_limit: Seconds after which the number of rounds is not doubled any
            more.

    Returns:
        Latencies and ratios.

    Raises:
        ValueError: There are fewer than two models or 6 rounds.

    Example:

    ```python
    print(kprune.compare(["original.tflite", "compact.tflite"]))
    ```
    """
    if isinstance(models, (str, os.PathLike, keras.Model)) or len(models) < 2:
        raise ValueError(f"Expected two or more models. Received: {models!r}.")
    why = ", the fewest for a 95 % confidence interval of a median"
    whole(rounds, "compare()", "rounds", FEWEST, why=why, exact=True)
    if precision is not None and not precision > 0:
        raise ValueError(
            "`precision` must be above 0, such as 0.02, or None. Received: "
            f"{precision!r}."
        )
    check_effort(rounds, seconds)
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(as_file(model)) for model in models]
        runtimes = [open_runtime(file, threads).name for file in files]
        timed = Rounds(
            [functools.partial(_ready, file, threads) for file in files],
            seconds / rounds,
            seed,
        )
        timed.until(rounds, precision, time_limit)
    return Comparison(
        tuple(_name(model) for model in models),
        tuple(
            latency(list(chain(*rows)), threads, runtime, medians)
            for rows, runtime, medians in zip(
                timed.times, runtimes, timed.medians(), strict=True
            )
        ),
        timed.ratios(),
        timed.count,
    )


def _ready(file: Path, threads: int) -> Callable[[], Any]:
    runtime = open_runtime(file, threads)
    runtime.prepare(random_inputs(runtime))
    return runtime.invoke


def _name(model: str | os.PathLike[str] | keras.Model) -> str:
    return model.name if isinstance(model, keras.Model) else os.fspath(model)


def short_names(names: Sequence[str]) -> Sequence[str]:
    """Strip folders from names if the rest is still unique.

    Args:
        names: Paths, or names of models.

    Returns:
        Names to show.
    """
    short = [Path(name).name for name in names]
    return short if len(set(short)) == len(set(names)) else names
