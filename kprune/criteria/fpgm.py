"""Distances to the other filters of a group."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kprune.criteria._similarities import distances
from kprune.criteria.base import GroupCriterion
from kprune.criteria.base import filters
from kprune.criteria.base import register

if TYPE_CHECKING:
    from kprune.graph import Group


@register("fpgm")
class FPGM(GroupCriterion):
    """Sum of the Euclidean distances to the other filters of the group.

    Filters near the geometric median are the most replaceable ones, so they have
    low scores. Filters that are exactly 0 (pruned or dead) have score 0 and are not
    included in the sums. From "Filter Pruning via Geometric Median" (He et al.,
    arXiv 1811.00250).

    Example:

    ```python
    masked = kprune.prune(model, criterion="fpgm", reduce={"macs": 0.5})
    ```
    """

    def score(self, group: Group) -> np.ndarray:
        matrix = filters(group)
        lives = matrix.any(axis=1)
        scores = np.zeros(group.size)
        scores[lives] = distances(matrix[lives]).sum(axis=1)
        return scores
