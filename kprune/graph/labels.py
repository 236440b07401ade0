"""Label arrays, which assign each position of a tensor to its channels.

A tensor carries a list of integer arrays ("factors") of its own rank. Each has
size 1 along the axes where its labels do not vary: `(1, 1, 1, C)` for an NHWC
feature map. There are several factors if two axes have channels of their own
(tokens and features, heads and head dimensions). A position is removed if any
of its labels is. Label 0 means "never removed".

Everything here is pure NumPy, independent of layers and masks.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Shape = tuple[int | None, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Labels:
    """The labels of one tensor.

    Args:
        shape: True shape with the batch axis, `None` where unknown. The factors
            do not tell it: they have size 1 also along axes on which labels
            do not vary.
        factors: Integer arrays of rank `len(shape)`; every axis has size 1 or
            the true size.
        zero: Whether masked positions are known to hold exactly 0. Contractions
            without parameters need this.
        why: Why nothing can be removed, if there are no factors.
    """

    shape: Shape
    factors: tuple[np.ndarray, ...] = ()
    zero: bool = True
    why: str = ""

    @property
    def rank(self) -> int:
        return len(self.shape)

    def along(self, axis: int) -> tuple[np.ndarray, ...]:
        """Return the factors that vary along `axis`."""
        return tuple(f for f in self.factors if f.shape[axis] > 1)

    def replace(self, **changes: Any) -> Labels:
        return dataclasses.replace(self, **changes)


def varying(factor: np.ndarray) -> tuple[int, ...]:
    """Return the axes along which a factor has more than one position."""
    return tuple(d for d, n in enumerate(factor.shape) if n > 1)


def on_axis(values: np.ndarray, axis: int, rank: int) -> np.ndarray:
    """Lay a 1-D array along `axis` of an otherwise size-1 array."""
    shape = [1] * rank
    shape[axis] = values.size
    return values.reshape(shape)


def compress(factor: np.ndarray) -> np.ndarray:
    """Reduce every axis along which the labels are constant to size 1."""
    for axis in varying(factor):
        first = factor.take([0], axis=axis)
        if (factor == first).all():
            factor = first
    return factor


def lift(labels: Labels, rank: int) -> Labels:
    """Add leading size-1 axes, as NumPy broadcasting does."""
    extra = rank - labels.rank
    if extra <= 0:
        return labels
    return labels.replace(
        shape=(1,) * extra + labels.shape,
        factors=tuple(
            f.reshape((1,) * extra + f.shape) for f in labels.factors
        ),
    )


def _product(dims: Sequence[int | None]) -> int | None:
    return None if None in dims else math.prod(dims)  # type: ignore[arg-type]


def split_blocks(
    old: Shape, new: Shape
) -> list[tuple[tuple[int, int], tuple[int, int]]] | None:
    """Pair runs of old axes with the runs of new axes they are reshaped to.

    Runs are matched from the last axis: axes in front of a run, even of unknown
    size, do not affect where its elements go.

    Returns:
        Pairs `((i0, i1), (j0, j1))` of equal element count, as short as
        possible, or None if the sizes do not fit.
    """
    i, j = len(old), len(new)
    tail: list[tuple[tuple[int, int], tuple[int, int]]] = []
    while i and j:
        start = _trailing_run(old[:i], new[:j])
        if start is None:
            break
        tail.append(((start[0], i), (start[1], j)))
        i, j = start
    if old[:i] == new[:j]:
        head = [((a, a + 1), (a, a + 1)) for a in range(i)]
    elif _product(old[:i] + new[:j]) in (None, 1):
        head = [((0, i), (0, j))]
    else:
        return None
    return head + tail[::-1]


def _trailing_run(old: Shape, new: Shape) -> tuple[int, int] | None:
    """Return the starts of the shortest trailing runs of equal element count."""
    i, j = len(old) - 1, len(new) - 1
    left, right = old[i], new[j]
    while left != right and left is not None and right is not None:
        if left < right and i:
            i -= 1
            left = _product((left, old[i]))
        elif right < left and j:
            j -= 1
            right = _product((right, new[j]))
        else:
            return None
    return None if left is None or right is None else (i, j)


def reshape_factor(
    factor: np.ndarray, old: Shape, new: Shape
) -> np.ndarray | None:
    """Reshape a factor in the way its tensor is reshaped from `old` to `new`.

    Returns:
        The new factor, or None if unknown sizes leave the positions undecided.
    """
    blocks = split_blocks(old, new)
    if blocks is None:
        return None
    out_shape = []
    expanded = list(factor.shape)
    for (i0, i1), (j0, j1) in blocks:
        if all(n == 1 for n in factor.shape[i0:i1]):
            out_shape += [1] * (j1 - j0)
            continue
        if _product(old[i0:i1]) is None or None in new[j0:j1]:
            return None
        expanded[i0:i1] = list(old[i0:i1])
        out_shape += list(new[j0:j1])  # type: ignore[arg-type]
    return compress(np.broadcast_to(factor, expanded).reshape(out_shape))
