"""Reading and copying the values of variables on any backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np


def read(variable: Any) -> np.ndarray:
    """Return the value of a variable or tensor as a NumPy array (maybe a view)."""
    value = getattr(variable, "value", variable)
    if not len(value.shape):
        value = variable  # NumPy cannot read a scalar that is mirrored.
    return np.asarray(keras.ops.convert_to_numpy(value))


def copy_value(source: Any, target: Any) -> None:
    """Assign the value of one variable to another.

    Through an array of its own: on JAX both variables would otherwise share
    a buffer, which the first training step of one of them gives away.
    """
    target.assign(np.array(read(source)))


def paired(old: Sequence[Any], new: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Return the variables of a layer with those of its copy.

    They come in the same order, but for layers that got some of them after
    they were built (quantised to float8): these go by their names.
    """
    names = [v.name for v in old]
    found = {v.name: v for v in new}
    if [v.name for v in new] != names and len({*names, *found}) == len(old):
        new = [found[name] for name in names]
    return list(zip(old, new, strict=True))
