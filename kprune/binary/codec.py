"""Encode kernels with one magnitude per run of filters as bits and scales."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np

from kprune.graph.values import read

LONGEST = 2**16 - 1
"""Maximum number of filters in a run: its length is stored in two bytes."""


@dataclasses.dataclass(frozen=True)
class Binary:
    """An encoded kernel whose filters, along the last axis, share scales.

    Args:
        shape: Shape of the kernel.
        signs: Packed bits, 1 for weights above 0, in C order.
        scales: `(runs,)` magnitudes of runs of adjacent filters.
        lengths: `(runs,)` uint16, numbers of filters in the runs.
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
    """Encode a kernel as signs and scales, if that is exact and smaller.

    Args:
        kernel: Weights `(..., filters)`.

    Returns:
        None if the weights of a filter differ in magnitude, or nothing is saved.
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
    """Return the kernel that was encoded."""
    count = int(np.prod(binary.shape))
    signs = np.unpackbits(binary.signs, count=count).reshape(binary.shape)
    scales = np.repeat(binary.scales, binary.lengths)
    return np.where(signs, scales, -scales)


@dataclasses.dataclass(frozen=True)
class Figures:
    """Size of a model that stores signs as bits and shares scales.

    Args:
        signs: Number of weights stored as a sign only.
        scales: Number of scales that these share.
        others: Number of all other weights.
        bits: Total size in bits, without names, shapes and lengths of runs.
        plain: Size in bits of all weights stored one by one.
    """

    signs: int
    scales: int
    others: int
    bits: int
    plain: int

    @property
    def ratio(self) -> float:
        """Compression ratio `plain / bits`."""
        return self.plain / self.bits

    def __str__(self) -> str:
        return (
            f"{self.signs:,} signs, {self.scales:,} scales, {self.others:,} other "
            f"weights: {self.bits / 8 / 1000:.2f} kB in theory instead of "
            f"{self.plain / 8 / 1000:.2f} kB"
        )


def figures(model: keras.Model) -> Figures:
    """Compute the theoretical size of a model with binary kernels.

    Args:
        model: Any built model.

    Returns:
        `Figures` of all weights.

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
