"""Ridge regression from running sums."""

from __future__ import annotations

import numpy as np


class LeastSquaresSums:
    """Sums over rows for a least-squares fit of targets by `rows @ w + c`.

    Args:
        columns: Number of columns of the rows.
        targets: Number of columns of the targets.
    """

    def __init__(self, columns: int, targets: int = 0) -> None:
        self.count = 0
        self.rows = np.zeros(columns)
        self.targets = np.zeros(targets)
        self.squares = np.zeros((columns, columns))
        self.products = np.zeros((columns, targets))
        self.target_squares = np.zeros(targets)

    def add(self, rows: np.ndarray, targets: np.ndarray | None = None) -> None:
        """Add rows of shape `(n, columns)` and targets of shape `(n, targets)`."""
        ones = np.ones(len(rows), rows.dtype)
        self.count += len(rows)
        self.rows += ones @ rows
        # NumPy computes only half of a matrix product with its own transpose.
        self.squares += rows.T @ rows
        if targets is not None:
            self.products += rows.T @ targets
            self.targets += ones @ targets
            self.target_squares += ones @ targets**2

    def plus(self, other: LeastSquaresSums) -> LeastSquaresSums:
        """Return the sums over both sets of rows."""
        both = LeastSquaresSums(len(self.rows), len(self.targets))
        for name in vars(both):
            setattr(both, name, getattr(self, name) + getattr(other, name))
        return both

    def covariance(self, centred: bool) -> np.ndarray:
        """Return the mean outer product of rows, after removing the mean if centred."""
        value = self.squares / self.count
        if centred:
            mean = self.rows / self.count
            value = value - np.outer(mean, mean)
        return value

    def cross(self, centred: bool) -> np.ndarray:
        """Return the mean products of rows and targets, centred or not."""
        value = self.products / self.count
        if centred:
            value = value - np.outer(self.rows, self.targets) / self.count**2
        return value

    def solve(self, ridge: float, centred: bool) -> np.ndarray:
        """Return the weights of the ridge fit.

        Args:
            ridge: Penalty, relative to the mean square of a column.
            centred: Whether to fit a constant too.
        """
        h = self.covariance(centred)
        penalty = ridge * max(float(np.trace(h)) / len(h), 1e-30)
        h[np.diag_indices_from(h)] += penalty
        return np.linalg.solve(h, self.cross(centred))

    def error(self, weights: np.ndarray, centred: bool) -> float:
        """Return the mean squared error of weights, summed over the targets."""
        h, c = self.covariance(centred), self.cross(centred)
        total = float((self.target_squares / self.count).sum())
        if centred:
            total -= float(((self.targets / self.count) ** 2).sum())
        fitted = np.einsum("co,co->", weights, h @ weights - 2 * c)
        return total + float(fitted)

    def constant(self, weights: np.ndarray) -> np.ndarray:
        """Return the best constants for given weights."""
        return (self.targets - self.rows @ weights) / self.count
