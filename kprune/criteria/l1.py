"""Sums of absolute weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kprune.criteria.base import GroupCriterion
from kprune.criteria.base import kernels
from kprune.criteria.base import register

if TYPE_CHECKING:
    from kprune.graph import Group


@register("l1")
class L1(GroupCriterion):
    """Sum of a filter's absolute weights.

    If several layers produce a channel, as in a residual stage, their filters are
    concatenated. From "Pruning Filters for Efficient ConvNets" (Li et al.,
    arXiv 1608.08710).

    Example:

    ```python
    masked = kprune.prune(model, criterion="l1", reduce={"macs": 0.5})
    ```
    """

    def score(self, group: Group) -> np.ndarray:
        totals = np.zeros(group.size)
        for kernel in kernels(group):
            totals += np.abs(kernel.astype("float64")).sum(axis=1)
        return totals
