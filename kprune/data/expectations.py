"""Whether samples look like those that a model was made for, by its first layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kprune.data.pixels import operations
from kprune.data.pixels import statistics

_SAMPLES = 128
_APART = 3.0
"""How many deviations a mean is off, or how many times a deviation, at least."""

_NARROW, _WIDE = 0.05, 20.0
"""Spans that what is rescaled for a network does not have: 1 or 2 is usual."""


def unexpected(
    model: keras.Model,
    samples: Sequence[np.ndarray],
    what: str = "calibration data",
) -> list[str]:
    """Say where samples are not what the layers of a model were made for.

    The first `Normalization` or `BatchNormalization` holds the mean and deviation
    of what it was given in training; a `Rescaling` layer in front tells the range
    of its inputs. A model without them tells nothing.

    Args:
        model: Functional or Sequential model.
        samples: One array per input.
        what: How messages call them.

    Returns:
        Sentences; none if nothing is wrong.
    """
    if len(model.inputs) != 1:
        return []
    (x,) = samples
    x = x[:: max(1, len(x) // _SAMPLES)]
    untouched = True
    for operation, owner in operations(model):
        if isinstance(operation, keras.layers.InputLayer):
            continue
        if owner is not model and not untouched:
            return []  # What it is given is not known here.
        untouched = False
        doubt, known = "", statistics(operation)
        if isinstance(operation, keras.layers.Rescaling):
            doubt = _rescaled(operation, _before(owner, operation, x))
        elif known is not None:
            doubt = _normalised(operation, known, _before(owner, operation, x))
        if doubt:
            return [f"{what} do not look like what the model takes: {doubt}"]
        if known is not None:
            return []
    return []


def _before(owner: keras.Model, operation: Any, x: np.ndarray) -> np.ndarray:
    """Return what an operation is given."""
    if operation.input is owner.inputs[0]:
        return x.astype("float64")
    part = keras.Model(owner.inputs[0], operation.input)
    values: np.ndarray = keras.ops.convert_to_numpy(part(x, training=False))
    return values.astype("float64")


def _rescaled(layer: Any, values: np.ndarray) -> str:
    scale, offset = (
        np.asarray(v, "float64") for v in (layer.scale, layer.offset)
    )
    result = values * scale + offset
    shrinks = np.abs(scale).max() < 1
    span = float(np.ptp(result if shrinks else values))
    if not (span > _WIDE or (shrinks and span < _NARROW)):
        return ""
    return (
        f"they go from {values.min():.3g} to {values.max():.3g}, of which layer "
        f"{layer.name!r} makes {result.min():.3g} to {result.max():.3g}. Scale them "
        "as they were in training"
    )


def _normalised(
    layer: Any, known: tuple[np.ndarray, np.ndarray, int], values: np.ndarray
) -> str:
    mean, variance, axis = known
    others = tuple(n for n in range(values.ndim) if n != axis % values.ndim)
    deviation = np.sqrt(variance)
    got = values.mean(others), values.std(others)
    apart = float(np.median(np.abs(got[0] - mean) / deviation))
    wider = float(np.median(got[1] / deviation))
    if apart < _APART and 1 / _APART < wider < _APART:
        return ""
    wanted = mean, deviation
    return (
        f"layer {layer.name!r} was made for values of mean {_typical(wanted[0])} and "
        f"deviation {_typical(wanted[1])} and gets {_typical(got[0])} and "
        f"{_typical(got[1])}. Scale them as they were in training"
    )


def _typical(values: np.ndarray) -> str:
    return f"{np.median(values):.3g}"
