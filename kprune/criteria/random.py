"""Random scores, the baseline that every criterion must beat."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np

from kprune.arguments import whole
from kprune.criteria.base import GroupCriterion
from kprune.criteria.base import register

if TYPE_CHECKING:
    from kprune.graph import Group


@register("random")
class Random(GroupCriterion):
    """Uniformly random scores that depend only on the seed and the group's name.

    The same seed gives the same scores in every epoch and after a restart.

    Args:
        seed: A non-negative integer.

    Example:

    ```python
    masked = kprune.prune(model, criterion=kprune.criteria.Random(seed=3))
    ```
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = whole(seed, "Random", "seed", 0, exact=True)

    def score(self, group: Group) -> np.ndarray:
        name = zlib.crc32(group.name.encode())
        return np.random.default_rng([self.seed, name]).random(group.size)
