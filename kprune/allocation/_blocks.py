"""Removal of channels in blocks, so that kept counts are multiples of a number.

Kernels process several channels at once, and a partial block takes as long as a
full one.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence

import numpy as np

from kprune.allocation._solver import Costs
from kprune.allocation._solver import by_priority
from kprune.allocation._solver import remove_until


def whole_blocks(
    counts: np.ndarray, sizes: np.ndarray, block: int
) -> np.ndarray:
    """Round counts up to multiples of `block`, but not beyond `sizes`.

    Args:
        counts: Numbers of channels, of shape `(groups,)`.
        sizes: Sizes of the groups, of shape `(groups,)`.
        block: Number of channels per block.
    """
    return np.minimum(_blocks(counts, block) * block, sizes)


def _blocks(counts: np.ndarray, block: int) -> np.ndarray:
    """Return the numbers of blocks for `counts` channels; the last may be partial."""
    return (counts + block - 1) // block


def remove_blocks_until(
    block: int,
    priorities: Sequence[np.ndarray],
    alive: Sequence[np.ndarray],
    min_channels: np.ndarray,
    evaluate: Callable[[np.ndarray], Costs],
    budgets: Costs,
    restore: int | None = None,
) -> list[np.ndarray]:
    """Remove blocks of channels by priority, lowest first, until the budgets hold.

    Within a group, the channels with the lowest priorities are removed first. The
    first block is smaller if that leaves a multiple of `block`. The priority of a
    block is the mean over its channels.

    Args:
        block: Number of channels per block.
        priorities: See `remove_until`.
        alive: See `remove_until`.
        min_channels: See `remove_until`. Rounded up to whole blocks.
        evaluate: See `remove_until`.
        budgets: See `remove_until`.
        restore: See `remove_until`. Counted in blocks.

    Returns:
        For each group, booleans of shape `(size,)`: the kept channels. Their
        number is a multiple of `block`, or all alive channels are kept.

    Raises:
        ValueError: If the budgets cannot be met with `min_channels`.
    """
    totals = _blocks(np.array([len(mask) for mask in alive]), block)
    orders, values, present = [], [], []
    for priority, mask, total in zip(priorities, alive, totals, strict=True):
        order = by_priority(priority, mask)
        means = _means(priority[order], block)  # (remaining blocks,)
        # Removed blocks come before the remaining ones. They matter for the order
        # in which groups of equal priorities take turns.
        gone = np.zeros(total - len(means))
        orders.append(order)
        values.append(np.concatenate([gone, means]))  # (total,)
        present.append(np.arange(total) >= len(gone))  # (total,)
    alive_counts = np.array([len(order) for order in orders])  # (groups,)

    def evaluate_blocks(kept: np.ndarray) -> Costs:
        return evaluate(np.minimum(kept * block, alive_counts))

    kept_blocks = remove_until(
        values,
        present,
        _blocks(min_channels, block),
        evaluate_blocks,
        budgets,
        restore,
    )
    keep = []
    for old, order, kept in zip(alive, orders, kept_blocks, strict=True):
        # The partial block is removed first, so that all others are full.
        channels = min(int(kept.sum()) * block, len(order))
        mask = np.zeros(len(old), bool)
        mask[order[len(order) - channels :]] = True
        keep.append(mask)
    return keep


def _means(ascending: np.ndarray, block: int) -> np.ndarray:
    """Return the priorities of a group's blocks in order of removal."""
    first = len(ascending) % block or block
    edges = np.arange(first, len(ascending), block)
    values = np.array(
        [part.mean() for part in np.split(ascending, edges) if part.size]
    )
    # Rounding may make the means of equal numbers differ.
    return np.maximum.accumulate(values)
