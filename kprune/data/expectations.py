"""Check from a model's first layers whether samples look like its training data."""

from __future__ import annotations

import contextlib
import logging
import weakref
from collections.abc import Iterator
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import keras
import numpy as np

from kprune.data import arrays
from kprune.data.inputs import ModelInputs
from kprune.data.pixels import operations
from kprune.data.pixels import statistics

_log = logging.getLogger("kprune")

_SAMPLES = 128
_FEWEST = 8
"""Fewer samples are not checked by `doubts`: they need not be typical."""

_VALUES = 2**22
"""Approximate maximum number of values that `doubts` passes through first layers."""

_APART = 3.0
"""Samples look wrong if their mean is this many standard deviations off, or their
standard deviation this many times too large or too small."""

_NARROW, _WIDE = 0.05, 20.0
"""Rescaled inputs look wrong if they span less or more; 1 or 2 is usual."""


_name: ContextVar[str | None] = ContextVar("_name", default=None)
_told: weakref.WeakKeyDictionary[keras.Model, str] = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def checked_as(name: str) -> Iterator[None]:
    """Log no warning of `unexpected` samples within a block.

    Args:
        name: What a caller who has checked the samples calls them.
    """
    token = _name.set(name)
    try:
        yield
    finally:
        _name.reset(token)


def checked_name() -> str | None:
    """Return the name given to `checked_as`; None outside of it."""
    return _name.get()


def warn_unexpected(model: keras.Model, x: Any) -> None:
    """Log a warning if samples of `data` look wrong, once for each model.

    Args:
        model: The user's model.
        x: Inputs in memory, or None.
    """
    if x is None or checked_name() is not None:
        return
    for doubt in doubts(model, x, "the samples in `data`"):
        if _told.get(model) != doubt:
            _log.warning("%s", doubt)
        _told[model] = doubt


def doubts(model: keras.Model, x: Any, what: str) -> list[str]:
    """Return what `unexpected` says of a few samples, whatever the model is.

    Args:
        model: Any model.
        x: Inputs `(n, ...)` that it takes, in any structure.
        what: What messages call the samples.
    """
    try:
        size = arrays.count(x)
        if size < _FEWEST:
            return []
        (one,) = ModelInputs(model).inputs
        most = max(16, min(_SAMPLES, _VALUES // max(1, _width(x))))
        rows = np.linspace(0, size - 1, min(size, most)).astype("int64")
        (array,) = keras.tree.flatten(x)
        # Row by row, as arrays on disk or on a device may be large.
        some = np.concatenate([arrays.cut(array, r, r + 1) for r in rows])
        return unexpected(model, [one.ranked(some)], what)
    except Exception as error:  # A user's layers may raise anything.
        _log.debug("samples are not checked: %s", error)
        return []


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
            values = _before(owner, operation, x)
            doubt = _normalised(operation, known, values)
            early = _corrected(model, operation, known)
            if early is not None and not _normalised(operation, early, values):
                doubt = ""
        if doubt:
            return [f"{what} do not look like the model's inputs: {doubt}"]
        if known is not None:
            return []
    return []


def _width(x: Any) -> int:
    (array,) = keras.tree.flatten(x)
    return int(np.prod(array.shape[1:], dtype="int64"))


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


def _corrected(
    model: keras.Model, layer: Any, known: tuple[np.ndarray, np.ndarray, int]
) -> tuple[np.ndarray, np.ndarray, int] | None:
    """Return moving averages without the 0 and 1 from which they started.

    None if a model has not counted its steps, or that start no longer shows.
    """
    steps = getattr(getattr(model, "optimizer", None), "iterations", 0)
    left = float(getattr(layer, "momentum", 0)) ** int(steps)
    if not 1e-3 < left < 1:
        return None
    mean, variance, axis = known
    variance = np.maximum(variance - left, 1e-3 * variance)
    return mean / (1 - left), variance / (1 - left), axis


def _typical(values: np.ndarray) -> str:
    return f"{np.median(values):.3g}"
