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
    """Squared norm of a filter, relative to the sum over all that are not smaller.

    The score is `q_j / sum of q_k over all filters k of the group with q_k >= q_j`,
    where `q` is the squared Euclidean norm. The largest filter of each group has
    score 1, so one threshold over all groups leaves none empty: use
    `kprune.allocation.Global(normalize="none")`. From "Layer-adaptive sparsity for
    the Magnitude-based Pruning" (Lee et al., arXiv 2010.07611), which scores single
    weights.

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
        # Sums from each position to the end; equal values use the first position.
        tails = np.cumsum(order[::-1])[::-1]
        total = tails[np.searchsorted(order, squares, side="left")]
        return np.divide(
            squares, total, out=np.zeros(group.size), where=total > 0
        )
