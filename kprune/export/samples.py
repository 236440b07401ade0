"""Inputs for calibration and verification: the user's, or seeded random ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kprune.data.arrays import take
from kprune.data.inputs import first_not_finite
from kprune.data.source import as_source
from kprune.export.signature import ModelSignature
from kprune.export.signature import TensorSpec
from kprune.export.vocabulary import vocabulary_sizes

MAX_SAMPLES = 512
"""Maximum number of samples to calibrate on."""

_UNKNOWN_IMAGE_AXIS = 32
_UNKNOWN_SEQUENCE_AXIS = 16


def random_samples(
    signature: ModelSignature, count: int, seed: int = 0
) -> list[np.ndarray]:
    """Draw seeded random inputs that a model accepts.

    Floating-point inputs are standard normal, and booleans are True or False with
    equal probability. Integers, and floats that feed an `Embedding`, are valid
    indices of the smallest table that they reach. Unknown axes get length 32
    (images) or 16 (sequences).

    Args:
        signature: The model's inputs.
        count: Number of samples.
        seed: Seed of the generator.

    Returns:
        One array per input.

    Raises:
        ValueError: An input has a dtype that cannot be drawn, such as `string`.
    """
    rng = np.random.default_rng(seed)
    sizes = vocabulary_sizes(signature.model)
    return [
        _draw(rng, spec, count, vocabulary)
        for spec, vocabulary in zip(signature.inputs, sizes, strict=True)
    ]


def _draw(
    rng: np.random.Generator,
    spec: TensorSpec,
    count: int,
    vocabulary: int | None,
) -> np.ndarray:
    unknown = (
        _UNKNOWN_IMAGE_AXIS if len(spec.shape) >= 4 else _UNKNOWN_SEQUENCE_AXIS
    )
    shape = (count, *(unknown if n is None else n for n in spec.shape[1:]))
    text = spec.dtype == "string"
    if not text and (vocabulary is not None or spec.integer):
        # Without an embedding the range of integers is unknown, but 0 and 1 are
        # usually valid.
        return rng.integers(0, vocabulary or 2, shape).astype(spec.dtype)
    if spec.dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if "float" in spec.dtype:
        return rng.standard_normal(shape).astype(spec.dtype)
    raise ValueError(
        f"Input {spec.name!r} has dtype {spec.dtype!r}, for which no random "
        "inputs can be drawn. Pass real ones: export(..., calibration=x)."
    )


def collect_samples(
    signature: ModelSignature,
    data: Any,
    limit: int = MAX_SAMPLES,
    argument: str = "calibration",
) -> list[np.ndarray]:
    """Read up to `limit` samples, in the dtypes that the model takes.

    They are spread evenly over arrays, which are often sorted by class. Of a
    stream they are the first ones, since its length is not known.

    Args:
        signature: The model's inputs.
        data: Samples. See `kprune.data.source.Source`. Targets are ignored.
        limit: Maximum number of samples.
        argument: Name of the argument, for messages.

    Returns:
        One array per input, samples along axis 0.

    Raises:
        ValueError: The data is empty or does not fit the inputs, or leaves out
            an optional input.
        TypeError: `data` is of an unsupported type.
    """
    source = as_source(data, signature.model, argument)
    if source.size is not None and source.size > limit:
        rows = spread_rows(source.size, limit)
        chosen = take(source.arrays, rows)
        source = as_source(chosen, signature.model, argument)
    flat = keras.tree.flatten(source.inputs(limit))
    return [
        _typed(array, spec, argument)
        for array, spec in zip(flat, signature.inputs, strict=True)
    ]


def _typed(
    array: np.ndarray | None, spec: TensorSpec, argument: str
) -> np.ndarray:
    if array is None:
        raise ValueError(
            f"`{argument}` leaves out input {spec.name!r}, which is optional in "
            "Keras, but an exported file always takes it. Pass samples for all "
            "inputs, or build a model without it."
        )
    return array.astype("object" if spec.dtype == "string" else spec.dtype)


def spread(samples: Sequence[np.ndarray], count: int) -> list[np.ndarray]:
    """Return samples spread evenly from the first to the last.

    Args:
        samples: One array per input.
        count: Maximum number of samples.
    """
    rows = spread_rows(len(samples[0]), count)
    return [array[rows] for array in samples]


def spread_rows(size: int, count: int) -> np.ndarray:
    """Return indices of samples, spread evenly from the first to the last."""
    if size <= count:
        return np.arange(size)
    return np.linspace(0, size - 1, count).round().astype(int)


def check_finite(
    signature: ModelSignature,
    samples: Sequence[np.ndarray],
    argument: str = "calibration",
) -> None:
    """Raise if samples hold NaN or infinity, which have no int8 range.

    Args:
        signature: The model's inputs.
        samples: One array per input.
        argument: Name of the argument, for messages.

    Raises:
        ValueError: A value is not finite. The message names the input and the
            sample.
    """
    for spec, array in zip(signature.inputs, samples, strict=True):
        where = first_not_finite(array)
        if where is not None:
            raise ValueError(
                f"`{argument}` holds {array[where]} in sample {where[0]} of "
                f"{len(array)} that were read, for input {spec.name!r}, but int8 "
                "ranges need finite values. Leave such samples out, or replace the "
                "values."
            )
