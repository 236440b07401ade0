"""Measure models on the samples of a run."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from kprune.data.arrays import Batch
from kprune.data.arrays import concatenate
from kprune.data.arrays import count
from kprune.data.arrays import cut
from kprune.data.inputs import first_not_finite
from kprune.data.inputs import fixed_batch
from kprune.data.source import Source
from kprune.data.source import as_source
from kprune.export.differences import Difference
from kprune.export.differences import compare_outputs
from kprune.export.signature import ModelSignature
from kprune.graph import walk
from kprune.graph.likeness import random_values
from kprune.graph.values import read
from kprune.masking.state import no_gradients
from kprune.runs.logs import numbers
from kprune.session import Session

SAMPLES = 64
"""Number of samples to compare outputs on."""

BATCHES = 64
"""Maximum number of batches to measure metrics on."""

_LOWER = re.compile(
    "loss|error|mae|mse|mape|msle|poisson|huber|hinge|log_?cosh|cross_?entropy|"
    "perplexity|divergence|distance|false_?(pos|neg)|"
    "(?<![a-z])(kld?|nll|wer|cer)(?![a-z])",
    re.IGNORECASE,
)
"""Words in the names of losses and errors."""

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
    if fixed_batch(model) is not None:
        with no_gradients():
            return ModelSignature(model).predict(keras.tree.flatten(inputs))
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
        The result of `evaluate`, as numbers. Empty without a compiled loss or without
        targets. A model that takes one size of batch leaves out what does not fill the
        last.
    """
    return numbers(evaluated(model, source, steps))


def evaluated(
    model: keras.Model, source: Source | None, steps: int | None = BATCHES
) -> dict[str, Any]:
    """Return the result of `evaluate` as it is. See `metrics`."""
    if source is None or source.arrays is None or source.arrays[1] is None:
        return {}
    if not model.compiled or model.loss is None:
        return {}
    batches = list(source.batches(steps))
    fixed = fixed_batch(model)
    if fixed is not None:
        every = concatenate(batches)
        ends = range(fixed, count(every) + 1, fixed)
        batches = [cut(every, end - fixed, end) for end in ends]
        if not batches:
            return {}
    found: dict[str, Any] = model.evaluate(
        Batches(batches), verbose=0, return_dict=True
    )
    model.reset_metrics()
    return found


def not_finite(model: keras.Model) -> str | None:
    """Return a sentence that names the first weight with NaN; None if there is none.

    Infinite values count too. Weights that are not trained may have such values on
    purpose, so they do not count.
    """
    for weight in model.trainable_weights:
        if first_not_finite(read(weight)) is not None:
            return (
                f"Training has diverged: weight '{weight.path}' has NaN or infinite "
                "values. Start again from the trained model, with a lower learning "
                "rate or with clipnorm=1 in the optimizer."
            )
    return None


def minimised(metric: str, model: keras.Model | None = None) -> bool:
    """Return whether a metric is better if it is lower: a loss or an error.

    Args:
        metric: Name of the metric in the result of `evaluate`.
        model: The evaluated model. If Keras knows the direction of its metric, the
            name does not count.
    """
    found = None if model is None else _metric_of(model, metric)
    direction = getattr(found, "_direction", None)
    if direction is not None:
        return bool(direction == "down")
    names = metric if found is None else f"{metric} {type(found).__name__}"
    return _LOWER.search(names) is not None


def _metric_of(model: keras.Model, name: str) -> Any:
    """Return the metric with a name; None if it is the loss or unknown."""
    # Metrics given to `compile` are together in one.
    metrics = [
        m for one in model.metrics for m in getattr(one, "metrics", [one])
    ]
    # Of models with several outputs, results have the name of the output in front.
    found = [m for m in metrics if f"_{name}".endswith(f"_{m.name}")]
    return max(found, key=lambda m: len(m.name), default=None)


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
