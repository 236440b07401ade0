"""Layer-adaptive magnitudes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kprune.criteria.base import GroupCriterion
from kprune.criteria.base import lengths
from kprune.criteria.base import register

if TYPE_CHECKING:
    from kprune.graph import Group


@register("lamp")
class LAMP(GroupCriterion):
    """Squared length of a filter, relative to those that are no shorter.

    `q_j / sum of q_k over all filters k of the group with q_k >= q_j`, where `q`
    is the squared Euclidean length. The longest filter of each group has 1, so
    one threshold over all groups leaves none empty: use
    `kprune.allocation.Global(normalize="none")`. From "Layer-adaptive sparsity
    for the Magnitude-based Pruning" (Lee et al., arXiv 2010.07611), there for
    single weights.

    Example:

    ```python
    masked = kprune.prune(
        model,
        criterion="lamp",
        allocation=kprune.allocation.Global(normalize="none"),
    )
    ```
    """

    def score(self, group: Group) -> np.ndarray:
        squares = lengths(group) ** 2
        order = np.sort(squares)
        # Sums from each place to the end; equal ones count from the first.
        tails = np.cumsum(order[::-1])[::-1]
        total = tails[np.searchsorted(order, squares, side="left")]
        return np.divide(
            squares, total, out=np.zeros(group.size), where=total > 0
        )
