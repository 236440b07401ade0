"""Euclidean norms of filters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kprune.criteria.base import GroupCriterion
from kprune.criteria.base import lengths
from kprune.criteria.base import register

if TYPE_CHECKING:
    from kprune.graph import Group


@register("l2")
class L2(GroupCriterion):
    """Euclidean norm of a filter.

    If several layers produce a channel, their filters are concatenated. As in soft
    filter pruning (He et al., arXiv 1808.06866).

    Example:

    ```python
    masked = kprune.prune(model, criterion="l2", reduce={"macs": 0.5})
    ```
    """

    def score(self, group: Group) -> np.ndarray:
        return lengths(group)
