"""The budget solver: removes channels in a given order until the budgets hold.

The cost of a layer depends on two groups, its inputs and its outputs, so savings
per group do not add up. The solver therefore evaluates the exact cost of whole sets
of kept counts, about log2(channels) times.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

Costs = Mapping[str, float]


def fits(costs: Costs, budgets: Costs) -> bool:
    """Return whether no cost exceeds its budget."""
    return all(costs[key] <= budget for key, budget in budgets.items())


def by_priority(priority: np.ndarray, alive: np.ndarray) -> np.ndarray:
    """Return the alive channels of a group, lowest priority first.

    Args:
        priority: Priorities of shape `(size,)`.
        alive: Alive channels of shape `(size,)`, zero for removed ones.
    """
    channels = np.flatnonzero(alive)
    return channels[np.argsort(priority[channels], kind="stable")]


def remove_until(
    priorities: Sequence[np.ndarray],
    alive: Sequence[np.ndarray],
    min_channels: np.ndarray,
    evaluate: Callable[[np.ndarray], Costs],
    budgets: Costs,
    restore: int | None = None,
) -> list[np.ndarray]:
    """Remove channels by priority, lowest first, until all budgets hold.

    Then put back what the budgets still allow, highest priority first. So all
    budgets hold and, with `restore=None`, no single removed channel would fit.

    Args:
        priorities: For each group, priorities of shape `(size,)`, comparable
            across groups.
        alive: For each group, booleans of shape `(size,)`; other channels are
            removed already.
        min_channels: Smallest kept counts, of shape `(groups,)`.
        evaluate: Function of kept counts `(groups,)` that returns costs, which
            must not fall when a count rises.
        budgets: Cost name -> highest allowed cost.
        restore: Largest number of channels to put back per group; `None` for any
            number.

    Returns:
        For each group, booleans of shape `(size,)`: the kept channels.

    Raises:
        ValueError: If the budgets cannot be met with `min_channels`.
    """
    counts = np.array([int(a.sum()) for a in alive])
    owners, channels = _order(priorities, alive, counts - min_channels)

    def kept(removed: int) -> np.ndarray:
        return counts - np.bincount(owners[:removed], minlength=len(counts))

    low, high = 0, len(owners)
    if not fits(evaluate(kept(high)), budgets):
        raise ValueError(
            "The budgets are below the cost of the fewest channels."
        )
    while low < high:
        middle = (low + high) // 2
        if fits(evaluate(kept(middle)), budgets):
            high = middle
        else:
            low = middle + 1

    gone = np.zeros(len(owners), dtype=bool)
    gone[:low] = True
    put_back(gone, owners, kept(low), evaluate, budgets, restore)
    keep = [np.array(a, dtype=bool) for a in alive]
    for group, channel in zip(owners[gone], channels[gone], strict=True):
        keep[group][channel] = False
    return keep


def _order(
    priorities: Sequence[np.ndarray],
    alive: Sequence[np.ndarray],
    removable: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return groups and indices of all removable channels, in order of removal."""
    owners, channels, values, ranks = [], [], [], []
    for group, (priority, mask) in enumerate(
        zip(priorities, alive, strict=True)
    ):
        chosen = by_priority(priority, mask)[: max(0, int(removable[group]))]
        owners.append(np.full(len(chosen), group))
        channels.append(chosen)
        values.append(priority[chosen])
        # Equal priorities take turns between the groups.
        ranks.append(np.arange(len(chosen)) / len(priority))
    order = np.lexsort((np.concatenate(ranks), np.concatenate(values)))
    return np.concatenate(owners)[order], np.concatenate(channels)[order]


def put_back(
    gone: np.ndarray,
    owners: np.ndarray,
    kept: np.ndarray,
    evaluate: Callable[[np.ndarray], Costs],
    budgets: Costs,
    restore: int | None,
) -> None:
    """Put removed channels back, last removed first, where the budgets allow it.

    Args:
        gone: Booleans of shape `(n,)`: the removed channels; changed in place.
        owners: Group of each channel, of shape `(n,)`.
        kept: Kept counts without the channels in `gone`, of shape `(groups,)`.
        evaluate: See `remove_until`.
        budgets: See `remove_until`.
        restore: See `remove_until`.
    """
    left = np.full(len(kept), len(owners) if restore is None else restore)
    for i in np.flatnonzero(gone)[::-1]:
        group = owners[i]
        if not left[group]:
            continue
        trial = kept.copy()
        trial[group] += 1
        if fits(evaluate(trial), budgets):
            kept = trial
            gone[i] = False
            left[group] -= 1
        else:
            # The room only shrinks from here, and the group's next channel costs
            # at least as much.
            left[group] = 0
