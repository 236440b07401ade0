"""What an exported file is smaller than."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import keras

from kprune.export.sizes import path_size

_FLOAT32 = 4


@dataclass(frozen=True)
class Original:
    """The model before pruning, as far as its size goes.

    Args:
        size: Bytes.
        basis: What these bytes are: a file, or weights in float32.
    """

    size: int
    basis: str


def measure_original(
    original: keras.Model | str | os.PathLike[str],
) -> Original:
    """Say how large the model was before.

    Exporting it too would double the time of every export. Its weights in
    float32 are what any uncompressed float32 file holds at least, so a ratio to
    them flatters no one; they cost nothing to count. A file that exists already
    is measured.

    Args:
        original: A model, masked or not (masks do not count), or a file or
            folder that was exported from it.

    Returns:
        Its size.

    Raises:
        TypeError: If `original` is neither a model nor a path.
        FileNotFoundError: If there is no such file.
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
    return Original(path_size(path).plain, path.name)


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
