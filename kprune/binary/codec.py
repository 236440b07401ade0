"""Kernels of one magnitude per run of filters, as bits and scales."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np

from kprune.graph.values import read

LONGEST = 2**16 - 1
"""Filters of one run at most: its length takes two bytes."""


@dataclasses.dataclass(frozen=True)
class Binary:
    """A kernel whose filters share scales, the last axis being the filters.

    Args:
        shape: Shape of the kernel.
        signs: Packed bits, 1 for weights above 0, in C order.
        scales: `(runs,)` magnitudes of runs of adjacent filters.
        lengths: `(runs,)` uint16: filters of each run.
    """

    shape: tuple[int, ...]
    signs: np.ndarray
    scales: np.ndarray
    lengths: np.ndarray

    @property
    def nbytes(self) -> int:
        """Bytes of signs, scales and lengths."""
        parts = self.signs, self.scales, self.lengths
        return sum(part.nbytes for part in parts)


def encode(kernel: np.ndarray) -> Binary | None:
    """Return a kernel as signs and scales, if that is the same and shorter.

    Args:
        kernel: Weights `(..., filters)`.

    Returns:
        `None` where the weights of a filter differ in magnitude, or nothing is
        saved.
    """
    if kernel.ndim < 2 or not kernel.size:
        return None
    magnitudes = np.abs(kernel).reshape(-1, kernel.shape[-1])
    scales = magnitudes[0]
    if not (magnitudes == scales).all():
        return None
    begins = np.flatnonzero(np.append(True, scales[1:] != scales[:-1]))
    lengths = np.diff(np.append(begins, scales.size))
    if lengths.max() > LONGEST:
        return None
    found = Binary(
        kernel.shape,
        np.packbits(kernel > 0),
        np.array(scales[begins]),
        lengths.astype("<u2"),
    )
    return found if found.nbytes < kernel.nbytes else None


def decode(binary: Binary) -> np.ndarray:
    """Return the kernel that `encode` was given."""
    count = int(np.prod(binary.shape))
    signs = np.unpackbits(binary.signs, count=count).reshape(binary.shape)
    scales = np.repeat(binary.scales, binary.lengths)
    return np.where(signs, scales, -scales)


@dataclasses.dataclass(frozen=True)
class Figures:
    """What a model takes if signs are bits and scales are shared.

    Args:
        signs: Weights of which the sign alone is held.
        scales: Scales that they share.
        others: All other weights.
        bits: Bits of all of it, without names, shapes and lengths of runs.
        plain: Bits of the same weights one by one.
    """

    signs: int
    scales: int
    others: int
    bits: int
    plain: int

    @property
    def ratio(self) -> float:
        """How many times smaller that is."""
        return self.plain / self.bits

    def __str__(self) -> str:
        return (
            f"{self.signs:,} signs, {self.scales:,} scales, {self.others:,} other "
            f"weights: {self.bits / 8 / 1000:.2f} kB in theory instead of "
            f"{self.plain / 8 / 1000:.2f} kB"
        )


def figures(model: keras.Model) -> Figures:
    """Count the bits that a model takes in theory.

    Args:
        model: Any built model.

    Example:

    ```python
    print(kprune.binary.figures(compact))
    ```
    """
    signs = scales = others = bits = plain = 0
    for variable in model.weights:
        value = read(variable)
        width = 8 * value.dtype.itemsize
        plain += value.size * width
        found = encode(value)
        if found is None:
            others += value.size
            bits += value.size * width
        else:
            signs += value.size
            scales += found.scales.size
            bits += value.size + found.scales.size * width
    return Figures(signs, scales, others, bits, plain)
