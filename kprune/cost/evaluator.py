"""What a search over widths asks of costs."""

from __future__ import annotations

import abc
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

import numpy as np


class Evaluator(abc.ABC):
    """Costs of a model for any number of channels that each group keeps.

    `evaluate` is enough to search with. The other methods have defaults that
    hold for any cost; a subclass makes them fast for its own.

    A cost may be a maximum, such as the most memory that is used at any moment.
    Where several moments are equally high, no group can lower the maximum by
    itself. A subclass names such a cost in `maxima` and overrides `excess`: each
    group can lower the sum of what exceeds the budget.
    """

    sizes: np.ndarray
    """`(groups,)` channels of each group before any pruning."""

    maxima: frozenset[str] = frozenset()
    """Names of costs that are maxima over moments."""

    stairs: frozenset[str] = frozenset()
    """Names of costs that fall in steps as channels go, or even rise."""

    @abc.abstractmethod
    def evaluate(self, kept: Any) -> dict[str, Any]:
        """Return all costs by name.

        Args:
            kept: `(groups,)` or `(n, groups)` channels that each group keeps.

        Returns:
            Floats, or arrays of shape `(n,)`.
        """

    def excess(self, kept: Any, budgets: Mapping[str, float]) -> dict[str, Any]:
        """Return how far costs are above their budgets, 0 where they are not.

        For a cost that is a maximum over moments: the sum over all moments of
        what exceeds the budget.

        Args:
            kept: See `evaluate`.
            budgets: The highest cost allowed, by name.
        """
        costs = self.evaluate(kept)
        return {
            name: np.maximum(np.asarray(costs[name]) - budget, 0.0)
            for name, budget in budgets.items()
        }

    def savings(
        self,
        kept: np.ndarray,
        group: int,
        widths: np.ndarray,
        budgets: Mapping[str, float],
    ) -> dict[str, np.ndarray]:
        """Return what is saved if one group gets another width.

        Args:
            kept: `(groups,)` channels that each group keeps now.
            group: Number of the group.
            widths: `(n,)` channels that it may get.
            budgets: The highest cost allowed, by name: the costs to look at.

        Returns:
            By name `(n,)` amounts, negative where the cost rises; of `maxima`
            what is saved of the excess. `-inf` where the group must not get a
            width, whatever that saves.
        """
        rows = trials(kept, group, widths)
        peaks, sums = parted(budgets, self.maxima)
        values = self.excess(rows, peaks) if peaks else {}
        if sums:
            costs = self.evaluate(rows)
            values.update({name: np.asarray(costs[name]) for name in sums})
        return {name: each[0] - each[1:] for name, each in values.items()}

    def near(self, group: int, names: Iterable[str]) -> Collection[int]:
        """Return the groups of which a group's width changes the savings.

        Args:
            group: Number of the group.
            names: The costs to look at.
        """
        return range(len(self.sizes))


def parted(
    budgets: Mapping[str, float], names: Collection[str]
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the budgets of costs with these names, and those of all others."""
    mine = {n: c for n, c in budgets.items() if n in names}
    return mine, {n: c for n, c in budgets.items() if n not in names}


def trials(kept: np.ndarray, group: int, widths: np.ndarray) -> np.ndarray:
    """Return `(1 + n, groups)` kept counts: as they are, and with each width."""
    rows = np.repeat(np.asarray(kept)[None], len(widths) + 1, axis=0)
    rows[1:, group] = widths
    return rows
