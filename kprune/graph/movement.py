"""Data movement applied to labels: reshape, transpose, concatenate, slice, pad."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kprune.graph.call import Call
from kprune.graph.kept import Kept
from kprune.graph.labels import Labels
from kprune.graph.labels import Shape
from kprune.graph.labels import reshape_factor
from kprune.graph.labels import varying


def transpose(x: Labels, order: Sequence[int]) -> Labels:
    """Return the labels of a transposed tensor."""
    return x.replace(
        shape=tuple(x.shape[a] for a in order),
        factors=tuple(f.transpose(order) for f in x.factors),
    )


def finish(
    call: Call, x: Labels, factors: Sequence[np.ndarray], shape: Shape
) -> Labels:
    """Return labels without constant factors, whose channels are pinned."""
    live = []
    for factor in factors:
        if varying(factor):
            live.append(factor)
        else:
            call.pin(factor, f"{call!r} picks a single channel")
    why = x.why
    if not live and factors:
        why = f"{call!r} picks a single channel"
    return x.replace(shape=tuple(shape), factors=tuple(live), why=why)


def reshape(call: Call, x: Labels, shape: Shape) -> Labels:
    """Return the labels of a reshaped tensor; pin channels that cannot be followed."""
    factors = []
    why = x.why
    for factor in x.factors:
        moved = reshape_factor(factor, x.shape, tuple(shape))
        if moved is None:
            why = f"{call!r} mixes this axis with one of unknown size"
            call.pin(factor, why)
        else:
            factors.append(moved)
    return finish(call, x.replace(why=why), factors, shape)


def concatenate(
    call: Call, inputs: Sequence[Labels], axis: int, shape: Shape
) -> Labels:
    """Concatenate labels along `axis` and join them along all other axes."""
    if any(x.shape[axis] is None for x in inputs):
        why = f"{call!r} concatenates with an axis of unknown size"
        inputs = [call.settle(x, [axis], why) for x in inputs]
    rest = [
        x.replace(
            shape=tuple(1 if a == axis else n for a, n in enumerate(x.shape)),
            factors=tuple(call.rest(x, axis)),
        )
        for x in inputs
    ]
    joined = call.join(rest, shape)
    count = max((len(x.along(axis)) for x in inputs), default=0)
    factors = list(joined.factors)
    for k in range(count):
        pieces = []
        for x in inputs:
            along = x.along(axis)
            if k < len(along):
                pieces.append(along[k])
            else:
                length = x.shape[axis] or 1
                blank = [1] * x.rank
                blank[axis] = length
                pieces.append(np.zeros(blank, dtype=int))
        wide = [max(p.shape[a] for p in pieces) for a in range(len(shape))]
        for n, piece in enumerate(pieces):
            target = list(wide)
            target[axis] = piece.shape[axis]
            pieces[n] = np.broadcast_to(piece, target)
        factors.append(np.concatenate(pieces, axis=axis))
    zero = all(x.zero for x in inputs if x.factors)
    reasons = [x.why for x in inputs if x.why]
    return Labels(
        tuple(shape), tuple(factors), zero, reasons[0] if reasons else ""
    )


def take_key(
    call: Call, x: Labels, key: tuple[Any, ...], shape: Shape
) -> Labels:
    """Index labels with a normalised key. See `normalise_key`."""
    for axis, entry in enumerate(k for k in key if k is not None):
        if len(x.along(axis)) > 1 and entry != slice(None):
            # Each channel axis keeps a channel, but perhaps none in this slice.
            call.pin(
                x.along(axis), f"{call!r} slices an axis of two channel axes"
            )
    factors = []
    for factor in x.factors:
        adapted: list[Any] = []
        axis = 0
        for entry in key:
            if entry is None:
                adapted.append(None)
                continue
            size = factor.shape[axis]
            if size == 1:
                entry = 0 if not isinstance(entry, slice) else slice(None)
            elif not isinstance(entry, slice):
                picked = factor.take(entry, axis=axis)
                call.pin(picked, f"{call!r} picks a single channel")
            adapted.append(entry)
            axis += 1
        factors.append(factor[tuple(adapted)])
    return finish(call, x, factors, shape)


def normalise_key(key: Any, rank: int) -> tuple[Any, ...] | None:
    """Expand Ellipsis and missing axes; return None for advanced indexing."""
    if isinstance(key, list):  # Loaded models have lists instead of tuples.
        key = tuple(key)
    key = key if isinstance(key, tuple) else (key,)
    allowed = (int, np.integer, slice, type(None), type(Ellipsis))
    if not all(isinstance(k, allowed) for k in key):
        return None
    used = sum(k is not None and k is not Ellipsis for k in key)
    fill = [slice(None)] * (rank - used)
    if Ellipsis in key:
        at = key.index(Ellipsis)
        return (*key[:at], *fill, *key[at + 1 :])
    return (*key, *fill)


def pad(
    call: Call,
    x: Labels,
    widths: Sequence[Sequence[int]],
    value: Any,
    shape: Shape,
) -> Labels:
    """Return the labels of a padded tensor.

    Padding next to labelled channels gets new slots.
    """
    padded = [a for a, (low, high) in enumerate(widths) if low or high]
    last = x.rank - 1
    factors = []
    labelled: set[int] = set()
    for factor in x.factors:
        for axis in [a for a in padded if factor.shape[a] > 1]:
            factor = _pad_factor(
                call, factor, axis, widths[axis], axis in labelled
            )
            labelled.add(axis)
        factors.append(factor)
    if last in padded and last not in labelled and (x.shape[last] or 0) > 1:
        blank = np.zeros([1] * last + [x.shape[last] or 1], dtype=int)
        factors.append(_pad_factor(call, blank, last, widths[last], False))
    zero = x.zero and not np.any(value)
    return x.replace(shape=tuple(shape), factors=tuple(factors), zero=zero)


def _pad_factor(
    call: Call, factor: np.ndarray, axis: int, width: Sequence[int], blank: bool
) -> np.ndarray:
    pieces = []
    for part, size in ((0, width[0]), (1, width[1])):
        dims = list(factor.shape)
        dims[axis] = size
        count = int(np.prod(dims))
        slots = np.zeros(count, dtype=int) if blank else call.new_slots(count)
        pieces.append(slots.reshape(dims))
        if part == 0:
            pieces.append(factor)
    return np.concatenate(pieces, axis=axis)


def expand(x: Labels, axis: int) -> Labels:
    """Return the labels of a tensor with a new axis of size 1."""
    shape = list(x.shape)
    shape.insert(axis, 1)
    factors = tuple(np.expand_dims(f, axis) for f in x.factors)
    return x.replace(shape=tuple(shape), factors=factors)


def shrink_key(
    key: tuple[Any, ...], x: Labels, kept: Kept
) -> tuple[tuple[Any, ...], list[tuple[int, np.ndarray]]]:
    """Rewrite a basic index for the kept positions.

    Returns:
        The new key, and `(axis, indices)` of axes on which the kept positions
        are no regular slice (there the key takes the whole axis).
    """
    new: list[Any] = []
    irregular = []
    axis = 0
    for entry in key:
        if entry is None:
            new.append(None)
            continue
        index = kept.positions(x, axis)
        if index is not None:
            length = x.shape[axis] or 0
            if isinstance(entry, slice):
                wanted = np.arange(length)[entry]
                picked = places(index, wanted)
                start = int(picked[0]) if picked.size else 0
                if (picked == np.arange(start, start + picked.size)).all():
                    entry = slice(start, start + picked.size)
                else:
                    irregular.append((axis, picked))
                    entry = slice(None)
            else:
                entry = int(np.searchsorted(index, entry % length))
        new.append(entry)
        axis += 1
    return tuple(new), irregular


def places(index: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return where the wanted positions are among the kept ones, in their order.

    Args:
        index: The kept positions, sorted. Repeated ones are found each time.
        wanted: The wanted positions. Those that are not kept are left out.
    """
    first = np.searchsorted(index, wanted, "left")
    last = np.searchsorted(index, wanted, "right")
    ranges = zip(first, last, strict=True)
    return np.array([n for a, b in ranges for n in range(a, b)], dtype=int)


def broadcast(x: Labels, shape: Shape) -> Labels:
    """Return the labels of a tensor broadcast along unlabelled axes."""
    extra = len(shape) - x.rank
    factors = tuple(f.reshape((1,) * extra + f.shape) for f in x.factors)
    return x.replace(shape=tuple(shape), factors=factors)
