"""Ladders: the loss of each group at every width, and the search over them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kprune.allocation._search import Search
from kprune.allocation._whole import WholeSearch

if TYPE_CHECKING:
    from kprune.allocation.base import Request
    from kprune.allocation.base import Vectors


@dataclasses.dataclass(frozen=True)
class Ladder:
    """The order of removal and the loss of a group at every width.

    Args:
        order: Alive channels in order of removal.
        lost: Losses of shape `(alive channels + 1,)`: `lost[n]` with `n` channels
            kept; infinite for 0. Comparable across groups.
    """

    order: np.ndarray
    lost: np.ndarray

    def mask(self, kept: int, size: int) -> np.ndarray:
        """Return booleans of shape `(size,)`: the kept channels.

        Args:
            kept: Number of channels to keep.
            size: Size of the group, including removed channels.
        """
        mask = np.zeros(size, dtype=bool)
        mask[self.order[len(self.order) - kept :]] = True
        return mask


def solve_ladders(
    request: Request, ladders: Sequence[Ladder], min_channels: np.ndarray
) -> Vectors:
    """Meet the target of a request with the smallest loss.

    See `Search`, and `WholeSearch` for costs that only the whole model tells.

    Args:
        request: The target.
        ladders: The ladder of each prunable group.
        min_channels: Smallest kept counts, of shape `(groups,)`.

    Returns:
        Group name -> booleans of shape `(size,)`: the kept channels.
    """
    costs, budgets = request.cost_model, request.budgets()
    kind = WholeSearch if costs.estimated & budgets.keys() else Search
    search = kind(
        costs,
        budgets,
        [ladder.lost for ladder in ladders],
        min_channels,
        request.alive_counts,
    )
    return {
        name: ladder.mask(kept, len(request.alive[name]))
        for name, ladder, kept in zip(
            request.names, ladders, search.run().tolist(), strict=True
        )
    }
