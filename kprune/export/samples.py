"""Inputs for calibration and verification: the user's, or seeded random ones."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from kprune.export.signature import ModelSignature
from kprune.export.signature import TensorSpec
from kprune.export.signature import identifier
from kprune.export.vocabulary import vocabulary_sizes

logger = logging.getLogger("kprune")

MAX_SAMPLES = 512
"""Samples that are drawn at most from calibration data."""

_UNKNOWN_IMAGE_AXIS = 32
_UNKNOWN_SEQUENCE_AXIS = 16


def random_samples(
    signature: ModelSignature, count: int, seed: int = 0
) -> list[np.ndarray]:
    """Draw seeded random inputs that a model accepts.

    Floating-point inputs are standard normal, boolean ones fair coins.
    Integers, and floats that feed an `Embedding`, are valid indices of the
    smallest table they reach. Unknown axes get 32 (images) or 16 (sequences).

    Args:
        signature: The model's inputs.
        count: Number of samples.
        seed: Seed of the generator.

    Returns:
        One array per input.

    Raises:
        ValueError: If an input's dtype cannot be drawn, e.g. `string`.
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
    if vocabulary is not None or spec.integer:
        # Without an embedding nothing is known of an integer but that 0 and 1
        # are usual values.
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
    signature: ModelSignature, data: Any, limit: int = MAX_SAMPLES
) -> list[np.ndarray]:
    """Read up to `limit` samples of calibration data.

    Args:
        signature: The model's inputs.
        data: Arrays (a single one, or a list, tuple or dictionary by input
            name for a model with several inputs), a `tf.data.Dataset`, a
            `keras.utils.PyDataset`, a PyTorch `DataLoader`, a generator, or a
            function without arguments that returns one. Iterables yield
            batches, `x` or `(x, y)` or `(x, y, sample_weight)`; targets are
            ignored. Datasets of single samples are accepted as well.
        limit: Number of samples after which reading stops.

    Returns:
        One array per input, samples along axis 0.

    Raises:
        ValueError: If the data is empty or does not fit the inputs.
        TypeError: If `data` is of no accepted type.
    """
    parts: list[list[np.ndarray]] = []
    taken = 0
    for x in _batches(signature, data):
        batch = [array[: limit - taken] for array in _match(signature, x)]
        if len(batch[0]):
            parts.append(batch)
            taken += len(batch[0])
        if taken >= limit:
            logger.info("calibration: read the first %d samples", taken)
            break
    if not parts:
        raise ValueError(
            f"The calibration data for model {signature.model.name!r} is empty. "
            "Pass at least one sample; 100 to 500 are usual."
        )
    return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]


def _batches(signature: ModelSignature, data: Any) -> Iterator[Any]:
    """Yield the inputs of every batch, without targets."""
    if callable(data) and not _is_array(data):
        data = data()
    single = len(signature.inputs) == 1
    if isinstance(data, list) and single and all(map(_is_array, data)):
        yield from data
    elif _is_array(data) or isinstance(data, (dict, list, tuple)):
        yield _without_targets(signature, data)
    elif isinstance(data, keras.utils.PyDataset):
        # An endless PyDataset has no length; the caller stops reading.
        count = data.num_batches
        indices = itertools.count() if count is None else range(count)
        for index in indices:
            yield _without_targets(signature, data[index])
    elif isinstance(data, Iterable):
        for item in data:
            yield _without_targets(signature, item)
    else:
        raise TypeError(
            "Expected calibration data as arrays, a tf.data.Dataset, a "
            "keras.utils.PyDataset or a generator. Received: "
            f"{data!r} of type {type(data).__name__}."
        )


def _is_array(x: Any) -> bool:
    return hasattr(x, "shape") and hasattr(x, "dtype")


def _without_targets(signature: ModelSignature, item: Any) -> Any:
    """Strip targets and sample weights from `(x, y, sample_weight)`."""
    if not isinstance(item, (tuple, list)) or not item:
        return item
    wanted = len(signature.inputs)
    first = item[0]
    if isinstance(first, dict):
        return first
    if isinstance(first, (tuple, list)) and len(first) == wanted:
        return first
    # Several inputs without targets, or one input with or without targets.
    if wanted > 1 or isinstance(item, list) or len(item) > 3:
        return item
    return first


def _match(signature: ModelSignature, x: Any) -> list[np.ndarray]:
    """Return one batched array per input, in the order of the signature."""
    specs = signature.inputs
    if isinstance(x, dict):
        x = {identifier(str(key)): value for key, value in x.items()}
        missing = [spec.name for spec in specs if spec.name not in x]
        if missing:
            raise ValueError(
                f"Calibration data has no entry for the inputs {missing} of model "
                f"{signature.model.name!r}. Received the keys {sorted(x)}."
            )
        flat = [x[spec.name] for spec in specs]
    elif len(specs) == 1:
        flat = [x]
    else:
        flat = list(keras.tree.flatten(x))
    if len(flat) != len(specs):
        raise ValueError(
            f"Model {signature.model.name!r} has {len(specs)} inputs "
            f"({', '.join(spec.name for spec in specs)}). Calibration data has "
            f"{len(flat)} arrays per batch."
        )
    arrays = [_fit(a, spec) for a, spec in zip(flat, specs, strict=True)]
    if len({len(a) for a in arrays}) != 1:
        raise ValueError(
            "Calibration arrays differ in their number of samples: "
            + ", ".join(
                f"{spec.name} {len(a)}"
                for spec, a in zip(specs, arrays, strict=True)
            )
        )
    return arrays


def _fit(value: Any, spec: TensorSpec) -> np.ndarray:
    array = np.asarray(keras.ops.convert_to_numpy(value))
    if array.ndim == len(spec.shape) - 1:
        array = array[None]
    fits = array.ndim == len(spec.shape) and all(
        n is None or n == m
        for n, m in zip(spec.shape[1:], array.shape[1:], strict=True)
    )
    if not fits:
        raise ValueError(
            f"Calibration data for input {spec.name!r} has shape {array.shape}. "
            f"Expected (samples, {', '.join(map(str, spec.shape[1:]))})."
        )
    return array.astype(spec.dtype)
