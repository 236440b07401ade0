"""Probing of activation functions: what they do to channels.

Functions are tried out instead of looked up in a list, because users bring
their own.
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
    """How an activation treats channels.

    Args:
        elementwise: Whether each output element depends only on the input
            element at the same position.
        along_last_axis: Whether a function that is not elementwise mixes the
            last axis only, and treats all positions of the other axes alike.
        zero_at_zero: Whether f(0) == 0, so that a removed channel stays
            exactly 0.
        finite_at_zero: Whether value and slope at 0 are finite. Infinity times
            a mask of 0 is NaN, in the backward pass too.
        finite: Whether the value is finite for every moderate input.
    """

    elementwise: bool
    along_last_axis: bool
    zero_at_zero: bool
    finite_at_zero: bool = True
    finite: bool = True

    def tolerates(self, zero: bool) -> bool:
        """Return whether removed channels stay finite.

        Args:
            zero: Whether removed channels are exactly 0 at the input.
        """
        return self.finite_at_zero and (zero or self.finite)


_MIXES_EVERYTHING = ActivationKind(False, False, False)
_LINEAR = ActivationKind(True, False, True)


def describe_activation(function: Any, rank: int = 3) -> ActivationKind:
    """Probe `function` once on small tensors and cache the result.

    Args:
        function: A callable that maps a tensor to a tensor.
        rank: Rank of the tensors it is going to be called on.
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
    operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> ActivationKind:
    """Probe an operation of one tensor; its other arguments stay as given.

    Args:
        operation: A `keras.Operation`.
        args: Its positional arguments, with `Labels` in place of the tensor.
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


_OPERATIONS: dict[tuple[Any, ...], ActivationKind] = {}


def probe(function: Callable[[Any], Any], rank: int) -> ActivationKind:
    """Call `function` on small tensors to find its `ActivationKind`."""
    rng = np.random.default_rng(0)
    shape = (*(2, 3, 2, 2, 2, 2)[: rank - 1], 5)
    x = rng.normal(size=shape).astype("float32") * 3
    # On more channels a constant with one value for each of them does not fit.
    wide = np.resize(x, [n + n // 2 for n in shape])
    try:
        y = _apply(function, x)
        if y.shape != x.shape:
            return _MIXES_EVERYTHING
        if not _commutes(function, x, y, rng, 1):
            return ActivationKind(
                False, _commutes(function, x, y, rng, 5), False
            )
        if _apply(function, wide).shape != wide.shape:
            return _MIXES_EVERYTHING
        at_zero = _apply(function, np.zeros_like(x))
        grid = np.resize(np.linspace(-10, 10, 41, dtype="float32"), (9, *shape))
        with np.errstate(all="ignore"):
            finite = all(np.isfinite(_apply(function, g)).all() for g in grid)
            sloped = _has_slope(function, x, at_zero)
    except (
        Exception
    ):  # User code may fail on a probe. Its input is then pinned.
        return _MIXES_EVERYTHING
    return ActivationKind(
        True, True, bool((at_zero == 0).all()), sloped, finite
    )


def _commutes(
    function: Callable[[Any], Any],
    x: np.ndarray,
    y: np.ndarray,
    rng: np.random.Generator,
    block: int,
) -> bool:
    """Return whether every block of elements is mapped independently and alike."""
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


def _has_slope(
    function: Callable[[Any], Any], x: np.ndarray, at_zero: np.ndarray
) -> bool:
    """Return whether value and slope at 0 are finite (steps have slope 0)."""
    if not np.isfinite(at_zero).all():
        return False
    for sign in (1, -1):
        near = _apply(function, np.full_like(x, sign * 1e-6)) - at_zero
        nearer = _apply(function, np.full_like(x, sign * 1e-12)) - at_zero
        if sign < 0 and np.isnan(near).all():
            continue  # Undefined below 0: only the slope from above counts.
        steep = not np.isfinite(near).all() or np.abs(near).max() > 3e-4
        if steep and not np.allclose(near, nearer, rtol=0.1):
            return False
    return True


def _apply(function: Any, x: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        # Keras warns about a softmax over one channel, which a probe may be.
        warnings.simplefilter("ignore")
        value = function(keras.ops.convert_to_tensor(x))
    value = np.asarray(keras.ops.convert_to_numpy(value))
    return value.astype("float32") if value.dtype == bool else value
