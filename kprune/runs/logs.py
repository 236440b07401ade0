"""Read what Keras logs as numbers."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

_log = logging.getLogger("kprune")


def numbers(logs: Mapping[str, Any] | None) -> dict[str, float]:
    """Return logs, or the result of `evaluate`, with one number for each name.

    A metric with several values, such as `keras.metrics.F1Score()`, which has one for
    each class, becomes their mean. What is no number is left out, with a warning.

    Args:
        logs: Name -> number, array or tensor. None counts as empty.

    Example:

    ```python
    numbers({"loss": 0.3, "f1_score": np.array([0.8, 0.9])})
    # {"loss": 0.3, "f1_score": 0.85}
    ```
    """
    found = {}
    for name, value in (logs or {}).items():
        number = _number(value)
        if number is None:
            _left_out(name, type(value).__name__)
        else:
            found[name] = number
    return found


def _number(value: Any) -> float | None:
    try:
        array = np.asarray(keras.ops.convert_to_numpy(value))
    except Exception:  # Own metrics may return anything.
        return None
    if array.dtype.kind not in "fiubV" or not array.size:  # V: bfloat16
        return None
    return float(array.astype("float64").mean())


@functools.cache  # Training logs the same names in every epoch.
def _left_out(name: str, kind: str) -> None:
    _log.warning(
        "The metric %r is left out: its value, of type %s, is no number.",
        name,
        kind,
    )
