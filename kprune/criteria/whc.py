"""Magnitude and dissimilarity of filters combined."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kprune.criteria._similarities import similarities
from kprune.criteria.base import GroupCriterion
from kprune.criteria.base import filters
from kprune.criteria.base import register

if TYPE_CHECKING:
    from kprune.graph import Group


@register("whc")
class WHC(GroupCriterion):
    """Norm of a filter, times its weighted dissimilarity to all others.

    The score is `|F_j| * sum over i != j of |F_i| * (1 - |cos(F_i, F_j)|)`. It is
    low for small filters, and for those parallel or opposite to large ones. From
    "WHC: Weighted Hybrid Criterion for Filter Pruning" (Chen and Wang,
    arXiv 2302.08185).

    Example:

    ```python
    masked = kprune.prune(model, criterion="whc", reduce={"macs": 0.5})
    ```
    """

    def score(self, group: Group) -> np.ndarray:
        rows = filters(group)
        lengths = np.linalg.norm(rows, axis=1)
        cosines, _ = similarities(rows)
        return lengths * ((1.0 - np.abs(cosines)) @ lengths)
