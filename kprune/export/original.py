"""Measure the size that an exported file is compared with."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import keras

from kprune.export.formats.base import format_for
from kprune.export.formats.base import registry
from kprune.export.sizes import path_size

_FLOAT32 = 4


@dataclass(frozen=True)
class Original:
    """Size of the model before pruning.

    Args:
        size: Size in bytes.
        basis: What was measured, in words: a file, or weights in float32.
    """

    size: int
    basis: str


def measure_original(
    original: keras.Model | str | os.PathLike[str],
) -> Original:
    """Measure the size of the model before pruning.

    For a model, this is the size of its float32 weights. They cost nothing to
    count, whereas exporting the original too would double the time of every
    export. Any uncompressed float32 file is larger, so ratios to this size are
    never too favourable.

    Args:
        original: A model, masked or not (masks do not count), or a file or
            folder that was exported from it.

    Returns:
        Its size.

    Raises:
        TypeError: `original` is neither a model nor a path.
        FileNotFoundError: There is no such file.
    """
    if isinstance(original, keras.Model):
        return Original(
            _weight_bytes(original), f"weights of {original.name!r} in float32"
        )
    if not isinstance(original, (str, os.PathLike)):
        raise TypeError(
            "Expected `original` as a keras.Model or the path of an exported "
            f"file. Received: {original!r} of type {type(original).__name__}."
        )
    path = Path(original)
    if not path.exists():
        raise FileNotFoundError(
            f"There is no file {str(path)!r} to compare the size with."
        )
    known = path.suffix in {f".{name}" for name in registry.names}
    # A .h file is larger than its array.
    size = format_for(path).size(path) if known else path_size(path)
    return Original(size.plain, path.name)


def _weight_bytes(model: keras.Model) -> int:
    from kprune.masking.wrapping import filter_masks

    own = {
        id(variable)
        for wrapper in filter_masks(model)
        for variable in wrapper.weights
    } - {
        id(variable)
        for wrapper in filter_masks(model)
        for variable in wrapper.layer.weights
    }
    return _FLOAT32 * sum(
        math.prod(variable.shape)
        for variable in model.weights
        if id(variable) not in own
    )
