"""Measure how much the outputs of two runtimes differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Difference:
    """Largest differences between two lists of outputs.

    Args:
        max_abs: Largest absolute difference of any output element.
        max_rel: Largest absolute difference divided by the scale of its output,
            i.e. by the largest magnitude in the reference.
        top1: Share of samples with the same largest class, the lowest over all
            outputs that look like class scores; None without such an output.
        samples: Number of samples compared.
        constant: Whether the reference hardly varies between samples, in which
            case agreement proves little.
    """

    max_abs: float
    max_rel: float
    top1: float | None
    samples: int
    constant: bool = False


def compare_outputs(
    reference: Sequence[np.ndarray], outputs: Sequence[np.ndarray]
) -> Difference:
    """Compare outputs with reference outputs.

    Differences are relative to the scale of the whole output, not to each
    element: an error of 1e-8 in a class score of 1e-9 does not matter.

    Args:
        reference: Expected outputs, samples along axis 0.
        outputs: Outputs to compare, of the same shapes.

    Returns:
        The largest differences.

    Raises:
        ValueError: A shape differs, or the reference holds no finite number.
    """
    max_abs = max_rel = 0.0
    agreements = []
    for position, (expected, got) in enumerate(
        zip(reference, outputs, strict=True)
    ):
        if expected.shape != got.shape:
            raise ValueError(
                f"Output {position} has shape {got.shape}, Keras gives "
                f"{expected.shape}."
            )
        absolute, relative = _compare(_wide(expected), _wide(got))
        max_abs, max_rel = max(max_abs, absolute), max(max_rel, relative)
        if _class_scores(expected):
            same = expected.argmax(-1) == got.argmax(-1)
            agreements.append(float(same.mean()))
    top1 = min(agreements) if agreements else None
    samples = len(reference[0])
    constant = samples > 1 and all(map(_constant, reference))
    return Difference(max_abs, max_rel, top1, samples, constant)


def _wide(array: np.ndarray) -> np.ndarray:
    return np.asarray(array).astype(np.float64)


def _compare(expected: np.ndarray, got: np.ndarray) -> tuple[float, float]:
    finite = np.isfinite(expected)
    if expected.size and not finite.any():
        raise ValueError(
            "Keras gives no finite output on the verification inputs, so nothing "
            "can be compared. Pass real inputs: calibration=x."
        )
    # Where Keras itself overflows, the same infinity or NaN counts as equal.
    alike = np.array_equal(expected[~finite], got[~finite], equal_nan=True)
    if not alike or not np.isfinite(got[finite]).all():
        return float("inf"), float("inf")
    absolute = float(np.abs(expected[finite] - got[finite]).max(initial=0.0))
    scale = float(np.abs(expected[finite]).max(initial=0.0))
    if absolute == 0.0:
        return 0.0, 0.0
    return absolute, absolute / scale if scale else float("inf")


def _class_scores(output: np.ndarray) -> bool:
    floating = "float" in output.dtype.name
    return floating and output.ndim == 2 and output.shape[1] >= 2


def _constant(output: np.ndarray) -> bool:
    values = _wide(output)
    with np.errstate(invalid="ignore"):
        spread = values.max(axis=0) - values.min(axis=0)
    scale = np.abs(values).max(initial=0.0)
    return bool(spread.max(initial=0.0) <= 1e-6 * scale)
