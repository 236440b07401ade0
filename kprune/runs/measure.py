"""Measure models on the samples of a run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from kprune.data.arrays import Batch
from kprune.data.source import Source
from kprune.data.source import as_source
from kprune.export.differences import Difference
from kprune.export.differences import compare_outputs
from kprune.graph import walk
from kprune.graph.likeness import random_values
from kprune.masking.state import no_gradients
from kprune.session import Session

SAMPLES = 64
"""Number of samples to compare outputs on."""

BATCHES = 64
"""Maximum number of batches to measure metrics on."""

_OPEN = 32
"""Length of axes of unknown length."""


def samples_of(session: Session) -> Any:
    """Return inputs to compare outputs on: samples in memory, or random ones.

    Streams are not read. See `kprune.runs.describe.data_words`.
    """
    source = session.source
    if source is not None and source.arrays is not None:
        return source.inputs(SAMPLES)
    functional = walk.require_functional(session.masked)
    rng = np.random.default_rng(0)
    random = []
    for tensor in functional.inputs:
        batch, *sizes = tensor.shape
        shape = [batch or 2, *(_OPEN if n is None else n for n in sizes)]
        random.append(random_values(rng, tensor.dtype, shape))
    return as_source(random, session.masked).inputs(SAMPLES)


def outputs_of(model: keras.Model, inputs: Any) -> list[np.ndarray]:
    """Return the outputs of a model in inference mode, as arrays."""
    with no_gradients():
        outputs = model(
            keras.tree.map_structure(_tensor, inputs), training=False
        )
    return [
        np.asarray(keras.ops.convert_to_numpy(y))
        for y in keras.tree.flatten(outputs)
    ]


def difference(
    before: list[np.ndarray], after: list[np.ndarray]
) -> Difference | None:
    """Return how much outputs differ; None if they cannot be compared."""
    try:
        return compare_outputs(before, after)
    except ValueError:
        return None


def metrics(
    model: keras.Model, source: Source | None, steps: int | None = BATCHES
) -> dict[str, float]:
    """Return the loss and compiled metrics on samples in memory.

    Args:
        model: Any model.
        source: The samples.
        steps: Maximum number of batches; `None` for all.

    Returns:
        The result of `evaluate`. Empty without a compiled loss or without targets.
    """
    if source is None or source.arrays is None or source.arrays[1] is None:
        return {}
    if not model.compiled or model.loss is None:
        return {}
    found = model.evaluate(
        Batches(source.batches(steps)), verbose=0, return_dict=True
    )
    model.reset_metrics()
    return {name: float(value) for name, value in found.items()}


def minimised(metric: str) -> bool:
    """Return whether a metric is better if it is lower: a loss or an error."""
    return any(word in metric for word in ("loss", "error", "mae", "mse"))


class Batches(keras.utils.PyDataset):
    """Batches in memory.

    Args:
        batches: Tuples `(x, y, sample_weight)`. The weights may be None.
    """

    def __init__(self, batches: Iterable[Batch]) -> None:
        super().__init__()
        self._batches = [b[: 2 + (b[2] is not None)] for b in batches]

    @property
    def num_batches(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> Any:
        return self._batches[index]


def _tensor(value: Any) -> Any:
    return None if value is None else keras.ops.convert_to_tensor(value)
