"""Round a matrix to 4 bits so that its products change least."""

from __future__ import annotations

import numpy as np

from kprune.export.int4.matrices import Rounded

LARGEST = 7
"""Whole numbers go from -7 to 7, because kernels need a symmetric grid."""

DAMPING = 0.01
"""Share of the inputs' mean square that is added to the square of each."""

_CLIPPINGS = np.linspace(0.4, 1.0, 25)
_BLOCK = 128


def nearest(weights: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Round weights to the nearest values of the grid.

    Args:
        weights: `(filters, ...)`.
        scales: Step of each filter's grid, of the same rank.
    """
    whole = np.clip(np.rint(weights / scales), -LARGEST, LARGEST)
    return np.asarray(whole * scales, weights.dtype)


def best_scales(
    weights: np.ndarray, squares: np.ndarray | None = None
) -> np.ndarray:
    """Return the grid steps with the smallest rounding error.

    A grid that clips the largest weights is finer for all others.

    Args:
        weights: `(filters, columns)`.
        squares: `(columns,)` mean squares of the inputs. Defaults to equal ones.

    Returns:
        The step of each filter's grid, `(filters, 1)`.
    """
    importance = np.ones(weights.shape[1]) if squares is None else squares
    largest = np.abs(weights).max(axis=1, keepdims=True)
    best = np.full_like(largest, np.inf)
    scales = np.ones_like(largest)
    for clipping in _CLIPPINGS:
        tried = np.maximum(largest * clipping / LARGEST, 1e-9)
        error = (nearest(weights, tried) - weights) ** 2 @ importance[:, None]
        better = error < best
        best = np.where(better, error, best)
        scales = np.where(better, tried, scales)
    return scales


def rounded(
    weights: np.ndarray, products: np.ndarray | None, bias: bool
) -> Rounded:
    """Round a matrix column by column; later columns correct earlier errors.

    This is GPTQ (Frantar et al. 2022, arXiv 2210.17323), with the bias as a last
    column that is not rounded. Its input is always one, so it corrects the mean
    error of the outputs.

    Args:
        weights: `(filters, columns)`.
        products: Mean products of the inputs, with the one for the bias last,
            `(columns + 1, columns + 1)`. Without them each weight is rounded to
            the nearest value.
        bias: Whether the bias may change.
    """
    weights = weights.astype("float64")
    count = weights.shape[1]
    if products is None:
        scales = best_scales(weights)
        return _result(nearest(weights, scales), scales, None)
    squares = np.diag(products)[:count]
    scales = best_scales(weights, squares + DAMPING * squares.mean())
    columns = count + 1 if bias else count
    # Round the most important columns first, while many others can still correct
    # their errors.
    order = np.append(np.argsort(-squares, kind="stable"), count)[:columns]
    damped = products[np.ix_(order, order)].astype("float64")
    damping = DAMPING * squares.mean() + 1e-9
    damped[np.arange(count), np.arange(count)] += damping
    damped[count:, count:] += 1e-9
    factor = np.linalg.cholesky(np.linalg.inv(damped)).T
    left = np.concatenate([weights, np.zeros((len(weights), 1))], axis=1)
    left = left[:, order]
    grid = np.zeros_like(left)
    for start in range(0, count, _BLOCK):
        end = min(start + _BLOCK, count)
        errors = np.zeros((len(weights), end - start))
        for column in range(start, end):
            value = nearest(left[:, column : column + 1], scales)
            grid[:, column : column + 1] = value
            error = (left[:, column] - value[:, 0]) / factor[column, column]
            left[:, column + 1 : end] -= np.outer(
                error, factor[column, column + 1 : end]
            )
            errors[:, column - start] = error
        left[:, end:] -= errors @ factor[start:end, end:]
    found = np.zeros_like(weights)
    found[:, order[:count]] = grid[:, :count]
    return _result(found, scales, left[:, count] if bias else None)


def _result(
    weights: np.ndarray, scales: np.ndarray, bias: np.ndarray | None
) -> Rounded:
    return Rounded(
        weights.astype("float32"),
        scales[:, 0].astype("float32"),
        None if bias is None else bias.astype("float32"),
    )
