"""How much a filter differs from the others of its group."""

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
    """Dissimilarity of a filter to those of its group that stay.

    Of the two most similar filters one goes, then again of those that are
    left, and so on: a filter's score is 1 minus the similarity at which its
    turn comes. Removing all scores below a number therefore never removes both
    of a lone pair. Scores mean the same in each group, so that one threshold
    over all groups, `allocation="similarity"`, needs no shares per layer.

    Filters that are nearly 0, shorter than a twentieth of the group's mean
    length, go first: the direction they point in means nothing. Opposite
    filters are as dissimilar as can be. Where several layers produce a channel,
    their filters are put together to one vector. With BatchNormalization behind
    the filters, `kprune.criteria.Folded("similarity")` compares what it makes of
    them.

    Args:
        measure: `"distance"`: `1 - |a - b| / mean length of the group`, by
            which the shorter filter of the nearest pair goes. `"cosine"`, as
            published; `"pearson"`, the cosine after each filter's mean is
            subtracted; or `"euclidean"`, `1 - |a - b| / (|a| + |b|)`, from 0
            to 1. Among some dozens of filters hardly any cosine says
            "redundant", and the two in the middle do not see lengths.
        reduce: What a filter's similarity to the others is. `"max"`: to the
            nearest one; of the most similar pair that filter goes which is
            more similar to all others in sum, else the shorter one (with
            `"distance"` always the shorter one). `"mean"`,
            or a number k for the mean over the k nearest ones: the filter with
            the largest one goes, the shortest of several.
        standardize: Subtract from each group's similarities their mean and
            divide by their standard deviation. Short filters spread wider than
            long ones, which lets single thresholds hit groups of 1x1 filters
            harder; this undoes it.

    Raises:
        ValueError: An unknown measure or reduction.

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
        lives = lengths > _SHORT * lengths.mean()
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


# Below the score of a filter that is a copy of another one.
_DEAD = -1.0

# Share of a group's mean length below which a filter is as good as 0.
_SHORT = 0.05


def _standardized(matrix: np.ndarray, least: float) -> tuple[np.ndarray, float]:
    pairs = matrix[np.triu_indices(len(matrix), 1)]
    if not pairs.size or np.ptp(pairs) < 1e-12:
        return np.zeros_like(matrix), -1.0
    mean, deviation = pairs.mean(), pairs.std()
    return (matrix - mean) / deviation, (least - mean) / deviation


def _pair_levels(
    matrix: np.ndarray, lengths: np.ndarray, least: float, by_sum: bool
) -> np.ndarray:
    """Return `(n,)` the similarity at which each filter goes.

    That of the pair through which it goes, taking the pairs in falling order;
    `least` for the one that is left. Of a pair the filter goes which is more
    similar to all others in sum, if `by_sum`, else the shorter one.
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
    """Return which of a pair goes; rounding must not decide."""
    for a, b in ((sums[i], sums[j]), (-lengths[i], -lengths[j])):
        if abs(a - b) > 1e-9 * max(1.0, abs(a), abs(b)):
            return i if a > b else j
    return j


def _most_similar(means: np.ndarray, lengths: np.ndarray) -> int:
    """Return which filter goes: of equal ones the shortest."""
    most = np.flatnonzero(means >= means.max() - 1e-9)
    return int(most[np.argmin(lengths[most])])


def _mean_levels(
    matrix: np.ndarray, lengths: np.ndarray, least: float
) -> np.ndarray:
    """Return `(n,)` the mean similarity at which each filter goes.

    See `_nearest_levels`; here all that are left count.
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
    """Return `(n,)` the mean similarity at which each filter goes.

    The filter goes whose mean similarity to its `nearest` filters that are
    left is the largest. The levels never rise: a filter that comes later is
    not behind a threshold that ended the choice before it.
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
    """Return each row's mean over its largest values, and the least of these.

    `-inf` marks those that are gone and the row's own place.
    """
    rows = -np.partition(-rows, nearest - 1, axis=1)[:, :nearest]
    known = rows > -np.inf
    counts = known.sum(axis=1)
    totals = np.where(known, rows, 0.0).sum(axis=1)
    means = np.where(counts > 0, totals / np.maximum(counts, 1), -np.inf)
    farthest = np.where(known, rows, np.inf).min(axis=1, initial=np.inf)
    return means, farthest
