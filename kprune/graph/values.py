"""Reading and copying the values of variables on any backend."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np


def read(variable: Any) -> np.ndarray:
    """Return the value of a variable or tensor as a NumPy array (maybe a view)."""
    value = getattr(variable, "value", variable)
    return np.asarray(keras.ops.convert_to_numpy(value))


def copy_value(source: Any, target: Any) -> None:
    """Assign the value of one variable to another.

    Through an array of its own: on JAX both variables would otherwise share
    a buffer, which the first training step of one of them gives away.
    """
    target.assign(np.array(read(source)))
