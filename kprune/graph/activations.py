"""What an activation function does to channels, found by trying it.

Activations are never enumerated: users bring their own.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from typing import Any

import keras
import numpy as np


@dataclasses.dataclass(frozen=True, slots=True)
class ActivationKind:
    """How an activation treats channels.

    Args:
        elementwise: Each output element depends on its input element alone.
        along_last_axis: If not elementwise, it mixes the last axis only.
        zero_at_zero: f(0) == 0, so a removed channel stays exactly 0.
            (f(0) must be finite: infinity times a mask of 0 is not 0.)
    """

    elementwise: bool
    along_last_axis: bool
    zero_at_zero: bool


_MIXES_EVERYTHING = ActivationKind(False, False, False)


def describe_activation(function: Any) -> ActivationKind:
    """Probes `function` once on a small tensor; results are remembered."""
    try:
        return _probe(function)
    except TypeError:  # unhashable callable object
        return _probe.__wrapped__(function)


@functools.lru_cache(maxsize=256)
def _probe(function: Any) -> ActivationKind:
    if function is keras.activations.linear:
        return ActivationKind(True, False, True)
    x = np.random.default_rng(0).normal(size=(3, 4, 6)).astype("float32") * 3
    try:
        y = _apply(function, x)
        if y.shape != x.shape:
            return _MIXES_EVERYTHING
        single = _apply(function, x[:1, :1, 2:3])
        elementwise = np.array_equal(y[:1, :1, 2:3], single) or np.allclose(
            y[:1, :1, 2:3], single, rtol=1e-5, atol=1e-7
        )
        moved = x.copy()
        moved[..., 0] += 1.0
        untouched = np.allclose(_apply(function, moved)[..., 1:], y[..., 1:])
        elementwise = bool(elementwise and untouched)
        moved = x.copy()
        moved[0, 0] += 1.0
        rows = np.allclose(_apply(function, moved)[1:], y[1:])
        at_zero = _apply(function, np.zeros((1, 1, 4), "float32"))
        elementwise = elementwise and bool(np.isfinite(at_zero).all())
    except Exception:  # any user function may refuse a probe; it is then pinned
        return _MIXES_EVERYTHING
    return ActivationKind(elementwise, bool(rows), bool((at_zero == 0).all()))


def _apply(function: Any, x: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        # Keras warns of a softmax over one channel, which is what is probed.
        warnings.simplefilter("ignore")
        value = function(keras.ops.convert_to_tensor(x))
    return np.asarray(keras.ops.convert_to_numpy(value))
