"""What an activation function does to channels, found by trying it.

Activations are never enumerated: users bring their own.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from kprune.graph.labels import Labels


@dataclasses.dataclass(frozen=True, slots=True)
class ActivationKind:
    """The way an activation treats channels.

    Args:
        elementwise: Each output element depends on its input element alone.
        along_last_axis: If not elementwise, it mixes the last axis only, and
            treats all positions of the other axes alike.
        zero_at_zero: f(0) == 0, so a removed channel stays exactly 0.
        finite_at_zero: Value and slope at 0 are finite. Infinity times a mask
            of 0 is not 0, in the backward pass neither.
        finite: The value is finite for every moderate input too.
    """

    elementwise: bool
    along_last_axis: bool
    zero_at_zero: bool
    finite_at_zero: bool = True
    finite: bool = True

    def tolerates(self, zero: bool) -> bool:
        """Return whether removed channels stay finite; `zero`: they are exactly 0."""
        return self.finite_at_zero and (zero or self.finite)


_MIXES_EVERYTHING = ActivationKind(False, False, False)
_LINEAR = ActivationKind(True, False, True)


def describe_activation(function: Any, rank: int = 3) -> ActivationKind:
    """Probe `function` once on small tensors; results are remembered.

    Args:
        function: Takes a tensor, returns one.
        rank: Rank of the tensors it will see.
    """
    if function is keras.activations.linear:
        return _LINEAR
    try:
        return _remembered(function, rank)
    except TypeError:  # unhashable callable object
        return probe(function, rank)


@functools.lru_cache(maxsize=256)
def _remembered(function: Any, rank: int) -> ActivationKind:
    return probe(function, rank)


def probe_operation(
    operation: Any, args: tuple, kwargs: dict
) -> ActivationKind:
    """Probe an operation of one tensor, its other arguments as they are.

    Args:
        operation: A `keras.Operation`.
        args: Its positional arguments, with `Labels` for the tensor.
        kwargs: Its keyword arguments, likewise.
    """
    rank = next(
        x.rank
        for x in keras.tree.flatten((args, kwargs))
        if isinstance(x, Labels)
    )

    def function(x: Any) -> Any:
        new_args, new_kwargs = keras.tree.map_structure(
            lambda v: x if isinstance(v, Labels) else v, (args, kwargs)
        )
        return operation.call(*new_args, **new_kwargs)

    try:
        config = {
            k: v for k, v in operation.get_config().items() if k != "name"
        }
    except NotImplementedError:
        return probe(function, rank)
    rest = keras.tree.map_structure(
        lambda v: "x" if isinstance(v, Labels) else v, (args, kwargs)
    )
    if any(np.ndim(v) for v in keras.tree.flatten((config, rest))):
        return probe(function, rank)
    key = (
        type(operation),
        repr(config),
        repr(rest),
        rank,
        keras.config.floatx(),
    )
    if key not in _OPERATIONS:
        _OPERATIONS[key] = probe(function, rank)
    return _OPERATIONS[key]


_OPERATIONS: dict[tuple, ActivationKind] = {}


def probe(function: Callable[[Any], Any], rank: int) -> ActivationKind:
    """Find out by trying. See `ActivationKind`."""
    rng = np.random.default_rng(0)
    shape = (*(2, 3, 2, 2, 2, 2)[: rank - 1], 5)
    x = rng.normal(size=shape).astype("float32") * 3
    try:
        y = _apply(function, x)
        if y.shape != x.shape:
            return _MIXES_EVERYTHING
        if not _commutes(function, x, y, rng, 1):
            return ActivationKind(
                False, _commutes(function, x, y, rng, 5), False
            )
        at_zero = _apply(function, np.zeros_like(x))
        grid = np.resize(np.linspace(-10, 10, 41, dtype="float32"), (9, *shape))
        with np.errstate(all="ignore"):
            finite = all(np.isfinite(_apply(function, g)).all() for g in grid)
            sloped = _has_slope(function, x, at_zero)
    except Exception:  # any user function may refuse a probe; it is then pinned
        return _MIXES_EVERYTHING
    return ActivationKind(
        True, True, bool((at_zero == 0).all()), sloped, finite
    )


def _commutes(function, x, y, rng, block: int) -> bool:
    """Return whether blocks of elements are mapped each by itself and all alike."""
    order = rng.permutation(x.size // block)
    shuffled = x.reshape(-1, block)[order].reshape(x.shape)
    expected = y.reshape(-1, block)[order].reshape(x.shape)
    if not _close(_apply(function, shuffled), expected):
        return False
    changed = x.copy().reshape(-1, block)
    changed[0] += 1.0
    after = _apply(function, changed.reshape(x.shape)).reshape(-1, block)
    return _close(after[1:], y.reshape(-1, block)[1:])


def _close(a: np.ndarray, b: np.ndarray) -> bool:
    return np.allclose(a, b, rtol=1e-5, atol=1e-7, equal_nan=True)


def _has_slope(function, x: np.ndarray, at_zero: np.ndarray) -> bool:
    """Return whether value and slope at 0 are finite (steps have slope 0)."""
    if not np.isfinite(at_zero).all():
        return False
    for sign in (1, -1):
        near = _apply(function, np.full_like(x, sign * 1e-6)) - at_zero
        nearer = _apply(function, np.full_like(x, sign * 1e-12)) - at_zero
        if sign < 0 and np.isnan(near).all():
            continue  # not defined below 0: the slope from above counts
        steep = not np.isfinite(near).all() or np.abs(near).max() > 3e-4
        if steep and not np.allclose(near, nearer, rtol=0.1):
            return False
    return True


def _apply(function: Any, x: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        # Keras warns of a softmax over one channel, which is what is probed.
        warnings.simplefilter("ignore")
        value = function(keras.ops.convert_to_tensor(x))
    value = np.asarray(keras.ops.convert_to_numpy(value))
    return value.astype("float32") if value.dtype == bool else value
