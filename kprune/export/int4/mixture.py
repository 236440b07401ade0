"""Choose the matrices to round to 4 bits by the error of the file's outputs."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kprune.export.int4.quantize import IntegerFile

logger = logging.getLogger("kprune")

MEASURED = 256
"""Samples on which outputs are compared."""

ERROR_LIMIT = 2.0
"""Default limit of a mixed file's error, as a multiple of the int8 file's."""

Run = Callable[[Path], Sequence[np.ndarray]]


def mixed(
    file: IntegerFile,
    reference: Sequence[np.ndarray],
    run: Run,
    error_limit: float | None = None,
    size_limit: int | None = None,
) -> tuple[list[str], str]:
    """Choose the matrices to round to 4 bits within a limit of error or size.

    Each matrix is first rounded alone, in the float file, where there are no other
    errors. Matrices are ranked by the squared output error per byte saved, and the
    best are rounded: as many as `error_limit` allows, or as few as `size_limit`
    needs.

    Args:
        file: The model's file.
        reference: Outputs of the Keras model.
        run: Function that runs a file on the same samples.
        error_limit: Accepted error, as a multiple of the int8 file's.
        size_limit: Maximum size in bytes.

    Returns:
        Names of the matrices to round, and the result in words.

    Raises:
        ValueError: The file is larger even if all matrices have 4 bits.
    """

    def error(content: bytes) -> float:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.tflite"
            path.write_bytes(content)
            return relative_error(reference, run(path))

    if size_limit is not None:
        _check_size(file, size_limit)
    base = error(file.content(()))
    saved = file.sizes()
    added = {
        name: error(file.rounded(name)) ** 2 / saved[name]
        for name in file.names
    }
    ranked = sorted(file.names, key=lambda name: added[name])
    if size_limit is not None:
        count = _first(
            len(ranked),
            lambda n: len(file.content(ranked[:n])) <= size_limit,
        )
    else:
        limit = base * (ERROR_LIMIT if error_limit is None else error_limit)
        too_many = _first(
            len(ranked) + 1, lambda n: error(file.content(ranked[:n])) > limit
        )
        count = max(too_many - 1, 0)
    chosen = ranked[:count]
    return chosen, _summary(file, chosen, base, error(file.content(chosen)))


def relative_error(
    reference: Sequence[np.ndarray], outputs: Sequence[np.ndarray]
) -> float:
    """Return the largest relative root-mean-square error of the outputs.

    Args:
        reference: Expected outputs.
        outputs: Outputs to compare, of the same shapes.
    """
    errors = []
    for expected, got in zip(reference, outputs, strict=True):
        scale = float(np.linalg.norm(expected.astype("float64")))
        apart = np.linalg.norm(np.subtract(got, expected, dtype="float64"))
        errors.append(float(apart) / max(scale, 1e-30))
    return max(errors)


def _first(end: int, holds: Callable[[int], bool]) -> int:
    """Return the first number for which `holds` is true, or `end`, by bisection."""
    low, high = 0, end
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low


def _check_size(file: IntegerFile, size_limit: int) -> None:
    smallest = len(file.content(file.names))
    if smallest > size_limit:
        raise ValueError(
            f"`size_limit` is {size_limit:,} bytes, but with 4 bits in all "
            f"layers the file has {smallest:,}. Prune more, or raise the limit."
        )


def _summary(
    file: IntegerFile, chosen: Sequence[str], base: float, final: float
) -> str:
    saved = file.sizes()
    weights = sum(saved.values())
    share = sum(saved[name] for name in chosen) / weights if weights else 0.0
    return (
        f"4 bits in {len(chosen)} of {len(file.names)} layers ({share:.0%} of "
        f"their weights); output error {final:.3g}, with 8 bits in all {base:.3g}"
    )
