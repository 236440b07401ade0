"""Slice, draw and join batches, which are plain tuples of NumPy arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

BATCH_NUMBERS = 2**20
"""Elements in the inputs of a batch above which larger batches gain nothing."""

BATCH_SAMPLES = 256
"""Maximum number of samples in a batch from `merged`."""

Batch = tuple[Any, Any, Any]
"""Inputs, targets or None, sample weights or None; all hold NumPy arrays."""


def is_array(value: Any) -> bool:
    """Return whether a value has a shape and can be sliced."""
    return hasattr(value, "shape") and hasattr(value, "__getitem__")


def to_numpy(structure: Any) -> Any:
    """Convert the tensors of a structure to NumPy arrays; None stays None."""

    def convert(value: Any) -> np.ndarray | None:
        if value is None or isinstance(value, np.ndarray):
            return value
        if hasattr(value, "detach"):  # PyTorch: on a device, with gradients
            value = value.detach().cpu()
        return np.asarray(value)

    return keras.tree.map_structure(convert, structure)


def count(arrays: Any, argument: str = "data") -> int:
    """Return the number of samples that each array of a structure holds.

    Raises:
        ValueError: The arrays hold different numbers of samples.
    """
    leaves = filter(is_array, keras.tree.flatten(arrays))
    sizes = sorted({int(leaf.shape[0]) for leaf in leaves})
    if len(sizes) != 1:
        raise ValueError(
            f"All arrays in `{argument}` must hold the same number of samples, "
            "with one target per input. Received arrays of "
            f"{' and '.join(map(str, sizes))} samples."
        )
    return sizes[0]


def cut(arrays: Any, start: int, stop: int | None) -> Any:
    """Return samples `start` to `stop` of each array, as NumPy arrays."""
    return to_numpy(
        keras.tree.map_structure(
            lambda a: None if a is None else a[start:stop], arrays
        )
    )


def take(arrays: Any, chosen: np.ndarray) -> Any:
    """Return the chosen samples of each array, in that order."""
    return keras.tree.map_structure(
        lambda a: None if a is None else a[chosen], to_numpy(arrays)
    )


def repeated(array: np.ndarray, size: int) -> np.ndarray:
    """Return `size` samples, repeated from the first on if there are fewer."""
    return array[np.arange(size) % len(array)]


def stack(samples: Sequence[Any]) -> Any:
    """Stack single samples into one batch.

    Raises:
        ValueError: The samples differ in shape.
    """

    def join(*parts: Any) -> Any:
        if parts[0] is None:
            return None
        shapes = {np.shape(part) for part in parts}
        if len(shapes) > 1:
            raise ValueError(
                "Single samples of different shapes do not make a batch. "
                f"Received {' and '.join(map(str, sorted(shapes)))}: pass batches, "
                "or pad the samples to one shape."
            )
        return np.stack(parts)

    return keras.tree.map_structure(join, *samples)


def concatenate(parts: Sequence[Any]) -> Any:
    """Join structures of arrays along the batch axis."""
    return keras.tree.map_structure(
        lambda *arrays: None if arrays[0] is None else np.concatenate(arrays),
        *parts,
    )


def join(first: Batch, second: Batch) -> Batch:
    """Join two batches; targets or weights that one of them lacks are dropped.

    Raises:
        ValueError: Their samples differ in shape.
    """

    def both(a: Any, b: Any) -> Any:
        if a is None or b is None:
            return None
        if a.shape[1:] != b.shape[1:]:
            raise ValueError(
                "Samples of different shapes cannot be drawn at random. Received "
                f"batches of shapes {a.shape} and {b.shape}: pad them to one shape, "
                "or do not limit the number of samples."
            )
        return np.concatenate([a, b])

    joined: Batch = keras.tree.map_structure(both, first, second)
    return joined


def merged(batches: list[Batch]) -> list[Batch]:
    """Merge batches into fewer, larger ones, of equal size if possible.

    A batch gets up to `BATCH_SAMPLES` samples and about `BATCH_NUMBERS` elements
    in its inputs. Batches whose samples differ in shape are returned unchanged.
    """
    if any(_layout(batch) != _layout(batches[0]) for batch in batches):
        return batches
    first = count(batches[0])
    numbers = sum(a.size for a in _arrays(batches[0][0])) / first
    limit = min(BATCH_SAMPLES, int(BATCH_NUMBERS / max(numbers, 1.0)))
    if limit <= first:
        return batches
    whole = concatenate(batches)
    total = count(whole)
    size = math.ceil(total / math.ceil(total / limit))
    return [cut(whole, start, start + size) for start in range(0, total, size)]


def _arrays(structure: Any) -> list[np.ndarray]:
    return [a for a in keras.tree.flatten(structure) if a is not None]


def _layout(batch: Batch) -> Any:
    """Return the structure of a batch, and the shapes of one sample."""
    structure = keras.tree.map_structure(lambda _: 0, batch)
    leaves = keras.tree.flatten(batch)
    return structure, [None if a is None else a.shape[1:] for a in leaves]
