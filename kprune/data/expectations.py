"""Check from a model's first layers whether samples look like its training data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kprune.data.pixels import operations
from kprune.data.pixels import statistics

_SAMPLES = 128
_APART = 3.0
"""Samples look wrong if their mean is this many standard deviations off, or their
standard deviation this many times too large or too small."""

_NARROW, _WIDE = 0.05, 20.0
"""Rescaled inputs look wrong if they span less or more; 1 or 2 is usual."""


def unexpected(
    model: keras.Model,
    samples: Sequence[np.ndarray],
    what: str = "calibration data",
) -> list[str]:
    """Describe where samples differ from what a model was trained on.

    The first `Normalization` or `BatchNormalization` holds the mean and standard
    deviation of its inputs in training. A `Rescaling` layer implies the range of
    its inputs. A model without such layers is not checked.

    Args:
        model: Functional or Sequential model.
        samples: One array per input.
        what: What messages call the samples.

    Returns:
        Sentences; empty if nothing looks wrong.
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
            return []  # The values that reach this layer are not known.
        untouched = False
        doubt, known = "", statistics(operation)
        if isinstance(operation, keras.layers.Rescaling):
            doubt = _rescaled(operation, _before(owner, operation, x))
        elif known is not None:
            doubt = _normalised(operation, known, _before(owner, operation, x))
        if doubt:
            return [f"{what} do not look like the model's inputs: {doubt}"]
        if known is not None:
            return []
    return []


def _before(owner: keras.Model, operation: Any, x: np.ndarray) -> np.ndarray:
    """Return the values that reach an operation."""
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
        f"they go from {values.min():.3g} to {values.max():.3g}, which layer "
        f"{layer.name!r} rescales to {result.min():.3g} to {result.max():.3g}. Scale "
        "them as in training"
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
        f"layer {layer.name!r} expects values of mean {_typical(wanted[0])} and "
        f"deviation {_typical(wanted[1])} but gets {_typical(got[0])} and "
        f"{_typical(got[1])}. Scale them as in training"
    )


def _typical(values: np.ndarray) -> str:
    return f"{np.median(values):.3g}"
