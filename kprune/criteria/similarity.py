"""Dissimilarity of filters within a group."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kprune.arguments import choice
from kprune.arguments import whole
from kprune.criteria._similarities import MEASURES
from kprune.criteria._similarities import similarities
from kprune.criteria.base import GroupCriterion
from kprune.criteria.base import filters
from kprune.criteria.base import register

if TYPE_CHECKING:
    from kprune.graph import Group


@register("similarity")
class Similarity(GroupCriterion):
    """Dissimilarity of a filter to the remaining filters of its group.

    One of the two most similar filters is removed, then again one of the remaining
    filters, and so on. A filter's score is 1 minus the similarity at which it is
    removed. So a threshold on scores never removes both filters of an isolated
    pair. Scores are comparable across groups, so that one threshold over all groups,
    `allocation="similarity"`, needs no shares per layer.

    Filters that are nearly 0, with less than a twentieth of the norm of the others,
    have the lowest scores, because their direction is meaningless. Opposite filters
    have the largest dissimilarity. If several layers produce a channel, their filters
    are concatenated. If BatchNormalization follows the filters, use
    `kprune.criteria.Folded("similarity")` to compare them after folding.

    Args:
        measure: `"distance"`: `1 - |a - b| / mean norm of the group`; the smaller
            filter of the nearest pair is removed. `"cosine"`: as published.
            `"pearson"`: the cosine after subtracting each filter's mean.
            `"euclidean"`: `1 - |a - b| / (|a| + |b|)`, from 0 to 1. In groups of a
            few dozen filters, hardly any cosine is large enough to call filters
            redundant, and `"cosine"` and `"pearson"` ignore norms.
        reduce: A filter's similarity to the others. `"max"`: to the nearest one;
            of the most similar pair, the filter with the larger sum of similarities
            to all others is removed, or else the smaller one (with `"distance"`
            always the smaller one). `"mean"`: the mean over all others. A number k:
            the mean over the k nearest. With these, the filter with the largest mean
            is removed, or of several the smallest.
        standardize: Whether to standardise the similarities of each group to mean 0
            and standard deviation 1. Similarities of short vectors vary more than
            those of long ones, so that a single threshold removes more 1x1 filters;
            this corrects it.

    Raises:
        ValueError: If a measure or reduction is unknown.

    Example:

    ```python
    masked = kprune.prune(
        model, "similarity", {"macs": 0.5}, allocation="similarity"
    )
    ```

    After Wu, Song and Zeng (Frontiers in Neurorobotics 2023,
    doi 10.3389/fnbot.2023.1132679).
    """

    def __init__(
        self,
        measure: str = "distance",
        reduce: str | int = "max",
        standardize: bool = False,
    ) -> None:
        self.measure = choice(measure, "Similarity", "measure", MEASURES)
        if reduce not in ("max", "mean"):
            why = ' (so many nearest filters), "max" or "mean"'
            whole(reduce, "Similarity", "reduce", why=why, exact=True)
        self.reduce = reduce
        self.standardize = standardize

    def score(self, group: Group) -> np.ndarray:
        rows = filters(group)
        lengths = np.linalg.norm(rows, axis=1)
        lives = lengths > _SHORT * _typical(lengths)
        scores = np.full(group.size, _DEAD)
        if not lives.any():
            return scores
        matrix, least = similarities(rows[lives], self.measure)
        if self.standardize:
            matrix, least = _standardized(matrix, least)
        lengths = lengths[lives]
        if self.reduce == "max":
            by_sum = self.measure != "distance"
            levels = _pair_levels(matrix, lengths, least, by_sum)
        elif self.reduce == "mean" or int(self.reduce) >= len(matrix):
            levels = _mean_levels(matrix, lengths, least)
        else:
            nearest = int(self.reduce)
            levels = _nearest_levels(matrix, lengths, least, nearest)
        scores[lives] = 1.0 - levels
        if self.standardize:
            scores[~lives] = scores[lives].min() - 1.0
        return scores


# Below the score of a filter that is a copy of another.
_DEAD = -1.0

# Filters below this share of the group's typical norm count as 0.
_SHORT = 0.05


def _typical(lengths: np.ndarray) -> float:
    """Return the mean of norms, weighted by themselves.

    In a plain mean, filters that were removed would count, and short ones become long
    by comparison.
    """
    total = float(lengths.sum())
    return float((lengths**2).sum()) / total if total else 0.0


def _standardized(matrix: np.ndarray, least: float) -> tuple[np.ndarray, float]:
    pairs = matrix[np.triu_indices(len(matrix), 1)]
    if not pairs.size or np.ptp(pairs) < 1e-12:
        return np.zeros_like(matrix), -1.0
    mean, deviation = pairs.mean(), pairs.std()
    return (matrix - mean) / deviation, (least - mean) / deviation


def _pair_levels(
    matrix: np.ndarray, lengths: np.ndarray, least: float, by_sum: bool
) -> np.ndarray:
    """Return the similarity at which each filter is removed, of shape `(n,)`.

    It is the similarity of the pair for which it is removed, with pairs in
    descending order, and `least` for the last filter. With `by_sum`, the filter of
    the pair with the larger sum of similarities is removed, else the smaller one.
    """
    count = len(matrix)
    levels = np.full(count, least)
    sums = matrix.sum(axis=1) - matrix.diagonal()
    equal = np.zeros(count)
    left = matrix.copy()
    np.fill_diagonal(left, -np.inf)
    nearest, level = left.argmax(axis=1), left.max(axis=1)
    for _ in range(count - 1):
        one = int(np.argmax(level))
        other = int(nearest[one])
        gone = _weaker(one, other, sums if by_sum else equal, lengths)
        levels[gone] = level[one]
        sums -= matrix[gone]
        left[gone, :] = left[:, gone] = -np.inf
        stale = np.flatnonzero(nearest == gone)
        nearest[stale] = left[stale].argmax(axis=1)
        level[stale] = left[stale].max(axis=1)
        level[gone] = -np.inf
    return levels


def _weaker(i: int, j: int, sums: np.ndarray, lengths: np.ndarray) -> int:
    """Return which filter of a pair to remove; rounding must not decide."""
    for a, b in ((sums[i], sums[j]), (-lengths[i], -lengths[j])):
        if abs(a - b) > 1e-9 * max(1.0, abs(a), abs(b)):
            return i if a > b else j
    return j


def _most_similar(means: np.ndarray, lengths: np.ndarray) -> int:
    """Return the filter with the largest mean, or of equal ones the smallest."""
    most = np.flatnonzero(means >= means.max() - 1e-9)
    return int(most[np.argmin(lengths[most])])


def _mean_levels(
    matrix: np.ndarray, lengths: np.ndarray, least: float
) -> np.ndarray:
    """Return the mean similarity at which each filter is removed, of shape `(n,)`.

    Like `_nearest_levels`, but over all remaining filters.
    """
    count = len(matrix)
    levels = np.full(count, least)
    sums = matrix.sum(axis=1) - matrix.diagonal()
    level = np.inf
    for left in range(count - 1, 0, -1):
        gone = _most_similar(sums, lengths)
        level = min(level, float(sums[gone]) / left)
        levels[gone] = level
        sums -= matrix[gone]
        sums[gone] = -np.inf
    return levels


def _nearest_levels(
    matrix: np.ndarray, lengths: np.ndarray, least: float, nearest: int
) -> np.ndarray:
    """Return the mean similarity at which each filter is removed, of shape `(n,)`.

    The filter with the largest mean similarity to its `nearest` remaining filters
    is removed. Levels never rise, so that no threshold removes a filter but keeps
    one that was removed before it.
    """
    count = len(matrix)
    levels = np.full(count, least)
    matrix = matrix.copy()
    np.fill_diagonal(matrix, -np.inf)
    means, farthest = _nearest_means(matrix, nearest)
    level = np.inf
    for _ in range(count - 1):
        gone = _most_similar(means, lengths)
        level = min(level, float(means[gone]))
        levels[gone] = level
        touched = matrix[:, gone] >= farthest
        matrix[gone, :] = matrix[:, gone] = -np.inf
        means[gone] = -np.inf
        touched &= means > -np.inf
        means[touched], farthest[touched] = _nearest_means(
            matrix[touched], nearest
        )
    return levels


def _nearest_means(
    rows: np.ndarray, nearest: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return each row's mean over its largest values, and the smallest of them.

    Removed filters and the diagonal are `-inf`.
    """
    rows = -np.partition(-rows, nearest - 1, axis=1)[:, :nearest]
    known = rows > -np.inf
    counts = known.sum(axis=1)
    totals = np.where(known, rows, 0.0).sum(axis=1)
    means = np.where(counts > 0, totals / np.maximum(counts, 1), -np.inf)
    farthest = np.where(known, rows, np.inf).min(axis=1, initial=np.inf)
    return means, farthest
