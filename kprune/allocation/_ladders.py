"""What each group loses step by step, and the least that meets a target."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kprune.allocation._search import Search

if TYPE_CHECKING:
    from kprune.allocation.base import Request
    from kprune.allocation.base import Vectors


@dataclasses.dataclass(frozen=True)
class Ladder:
    """The steps in which a group loses channels.

    Args:
        order: Living channels, the first to go first.
        lost: `(living + 1,)` loss with so many channels kept, infinite with none;
            comparable across groups.
    """

    order: np.ndarray
    lost: np.ndarray

    def mask(self, kept: int, size: int) -> np.ndarray:
        """Return `(size,)` booleans: the channels that are kept.

        Args:
            kept: How many.
            size: Channels of the group, those that are gone included.
        """
        mask = np.zeros(size, dtype=bool)
        mask[self.order[len(self.order) - kept :]] = True
        return mask


def solve_ladders(
    request: Request, ladders: Sequence[Ladder], floors: np.ndarray
) -> Vectors:
    """Meet the target of a request at the least loss; see `Search`.

    Args:
        request: The target.
        ladders: What each prunable group loses.
        floors: `(groups,)` channels that each group keeps at least.
    """
    search = Search(
        request.cost_model,
        request.ceilings(),
        [ladder.lost for ladder in ladders],
        floors,
        request.living,
    )
    return {
        name: ladder.mask(kept, len(request.alive[name]))
        for name, ladder, kept in zip(
            request.names, ladders, search.run().tolist(), strict=True
        )
    }
