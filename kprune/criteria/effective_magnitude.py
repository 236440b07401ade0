"""Magnitudes of filters and of the weights that read their channels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kprune.criteria.base import GroupCriterion
from kprune.criteria.base import lengths
from kprune.criteria.base import register

if TYPE_CHECKING:
    from kprune.graph import Group


@register("effective_magnitude")
class EffectiveMagnitude(GroupCriterion):
    """Norm of a filter, times the norm of the weights that read its channel.

    A large filter is unimportant if the next layers hardly use its output. For
    groups that no kernel reads, only the norm of the filter counts. After
    "Lookahead: A Far-Sighted Alternative of Magnitude-based Pruning" (Park et al.,
    arXiv 2002.04809), which scores single weights.

    Example:

    ```python
    masked = kprune.prune(model, criterion="effective_magnitude")
    ```
    """

    def score(self, group: Group) -> np.ndarray:
        squares = np.zeros(group.size)
        for member in group.consumers:
            rows = member.matrix().astype("float64")
            squares += np.square(rows).sum(axis=1)
        if not group.consumers:
            return lengths(group)
        return lengths(group) * np.sqrt(squares)
