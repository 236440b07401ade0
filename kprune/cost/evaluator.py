"""The interface of costs for a search over widths."""

from __future__ import annotations

import abc
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

import numpy as np


class Evaluator(abc.ABC):
    """Base class of costs of a model for any kept counts.

    A search needs only `evaluate`. The other methods have defaults that are correct for
    any cost; subclasses override them with faster versions.

    A cost may be a maximum, such as the peak memory over all moments. If several
    moments have the same peak, no group alone can lower the maximum. A subclass names
    such a cost in `maxima` and overrides `excess`, the sum over the moments of what
    exceeds the budget, which each group can lower.
    """

    sizes: np.ndarray
    """Sizes of the groups before any pruning, of shape `(groups,)`."""

    maxima: frozenset[str] = frozenset()
    """Names of costs that are maxima over moments."""

    stairs: frozenset[str] = frozenset()
    """Names of costs that fall in steps as channels are removed, or even rise."""

    estimated: frozenset[str] = frozenset()
    """Names of costs of which `evaluate` asks the whole model if it is given a single
    row, which may take a second; those of several rows are estimates."""

    @abc.abstractmethod
    def evaluate(self, kept: Any) -> dict[str, Any]:
        """Return all costs by name.

        Args:
            kept: Kept counts of shape `(groups,)` or `(n, groups)`.

        Returns:
            Floats, or arrays of shape `(n,)`.
        """

    def excess(self, kept: Any, budgets: Mapping[str, float]) -> dict[str, Any]:
        """Return by how much costs exceed their budgets, or 0.

        For a cost that is a maximum over moments, it is the sum over all moments of
        what exceeds the budget. Costs that can be estimated are.

        Args:
            kept: See `evaluate`.
            budgets: Cost name -> highest allowed cost.
        """
        kept = np.asarray(kept)
        costs = self.evaluate(np.atleast_2d(kept))
        over = {
            name: np.maximum(np.asarray(costs[name]) - budget, 0.0)
            for name, budget in budgets.items()
        }
        if kept.ndim > 1:
            return over
        return {name: values[0] for name, values in over.items()}

    def savings(
        self,
        kept: np.ndarray,
        group: int,
        widths: np.ndarray,
        budgets: Mapping[str, float],
    ) -> dict[str, np.ndarray]:
        """Return the savings if one group gets another width.

        Args:
            kept: Current kept counts, of shape `(groups,)`.
            group: Index of the group.
            widths: New widths of the group, of shape `(n,)`.
            budgets: Cost name -> highest allowed cost; only these costs are evaluated.

        Returns:
            Cost name -> savings of shape `(n,)`, negative if the cost rises. For
            `maxima`, they are savings of the excess. `-inf` marks widths that are not
            allowed.
        """
        rows = trials(kept, group, widths)
        peaks, sums = parted(budgets, self.maxima)
        values = self.excess(rows, peaks) if peaks else {}
        if sums:
            costs = self.evaluate(rows)
            values.update({name: np.asarray(costs[name]) for name in sums})
        return {name: each[0] - each[1:] for name, each in values.items()}

    def near(self, group: int, names: Iterable[str]) -> Collection[int]:
        """Return the groups whose savings depend on a group's width.

        Args:
            group: Index of the group.
            names: Names of the costs to consider.
        """
        return range(len(self.sizes))


def parted(
    budgets: Mapping[str, float], names: Collection[str]
) -> tuple[dict[str, float], dict[str, float]]:
    """Split budgets into those of some costs and all others."""
    mine = {n: c for n, c in budgets.items() if n in names}
    return mine, {n: c for n, c in budgets.items() if n not in names}


def trials(kept: np.ndarray, group: int, widths: np.ndarray) -> np.ndarray:
    """Return kept counts of shape `(1 + n, groups)`: current ones, then each width."""
    rows = np.repeat(np.asarray(kept)[None], len(widths) + 1, axis=0)
    rows[1:, group] = widths
    return rows
