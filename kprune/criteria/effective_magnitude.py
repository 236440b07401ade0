"""Magnitude of a filter and of what reads it."""

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
    """Length of a filter, times the length of the weights that read its channel.

    A long filter whose output the next layers hardly use matters little. Of
    groups that no kernel reads the filters' length alone counts. After
    "Lookahead: A Far-Sighted Alternative of Magnitude-based Pruning" (Park et
    al., arXiv 2002.04809), there for single weights.

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
