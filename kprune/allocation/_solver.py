"""The budget solver: which channels go, in a given order, until a budget holds.

The cost of a layer depends on two groups, its inputs and its outputs, so shares
per layer never add up. The solver therefore asks for the exact cost of whole sets
of kept counts, and needs about log2(channels) such questions.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

Costs = Mapping[str, float]


def fits(costs: Costs, ceilings: Costs) -> bool:
    """Return whether no cost exceeds its ceiling."""
    return all(costs[key] <= ceiling for key, ceiling in ceilings.items())


def remove_until(
    priorities: Sequence[np.ndarray],
    alive: Sequence[np.ndarray],
    floors: np.ndarray,
    evaluate: Callable[[np.ndarray], Costs],
    ceilings: Costs,
    restore: int | None = None,
) -> list[np.ndarray]:
    """Remove channels, the lowest priority first, until all budgets hold.

    Then put back, the highest priority first, whatever the budgets still allow,
    so that the result is on the safe side of each budget and, with
    `restore=None`, no single further channel could be put back.

    Args:
        priorities: For each group a vector `(size,)`; comparable across groups.
        alive: For each group a boolean vector `(size,)`; others are gone already.
        floors: `(groups,)` channels that each group keeps at least.
        evaluate: Kept counts `(groups,)` to costs; must not fall when a count
            rises.
        ceilings: The highest cost allowed, for each key.
        restore: How many channels of a group are put back at most; `None` for
            any number.

    Returns:
        For each group a boolean vector `(size,)`, the channels that are kept.

    Raises:
        ValueError: The ceilings are not met with all groups at their floors.
    """
    counts = np.array([int(a.sum()) for a in alive])
    owners, channels = _order(priorities, alive, counts - floors)

    def kept(removed: int) -> np.ndarray:
        return counts - np.bincount(owners[:removed], minlength=len(counts))

    low, high = 0, len(owners)
    if not fits(evaluate(kept(high)), ceilings):
        raise ValueError("The ceilings are below the cost of the floors.")
    while low < high:
        middle = (low + high) // 2
        if fits(evaluate(kept(middle)), ceilings):
            high = middle
        else:
            low = middle + 1

    gone = np.zeros(len(owners), dtype=bool)
    gone[:low] = True
    put_back(gone, owners, kept(low), evaluate, ceilings, restore)
    keep = [np.array(a, dtype=bool) for a in alive]
    for group, channel in zip(owners[gone], channels[gone], strict=True):
        keep[group][channel] = False
    return keep


def _order(
    priorities: Sequence[np.ndarray],
    alive: Sequence[np.ndarray],
    removable: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return groups and channels of all removable channels, first to go first."""
    owners, channels, values, ranks = [], [], [], []
    for group, (priority, lives) in enumerate(
        zip(priorities, alive, strict=True)
    ):
        living = np.flatnonzero(lives)
        by_priority = living[np.argsort(priority[living], kind="stable")]
        chosen = by_priority[: max(0, int(removable[group]))]
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
    ceilings: Costs,
    restore: int | None,
) -> None:
    """Clear `gone`, from its end, wherever the budgets allow it.

    Args:
        gone: `(n,)` booleans, changed in place: which of n channels are removed.
        owners: `(n,)` group of each channel.
        kept: `(groups,)` kept counts without the channels in `gone`.
        evaluate: See `remove_until`.
        ceilings: See `remove_until`.
        restore: See `remove_until`.
    """
    left = np.full(len(kept), len(owners) if restore is None else restore)
    for i in np.flatnonzero(gone)[::-1]:
        group = owners[i]
        if not left[group]:
            continue
        trial = kept.copy()
        trial[group] += 1
        if fits(evaluate(trial), ceilings):
            kept = trial
            gone[i] = False
            left[group] -= 1
        else:
            # Room only shrinks from here, and the group's next channel costs
            # no less than this one.
            left[group] = 0
