"""Blocks of channels: a budget met with counts that are multiples of a number.

Kernels work on several channels at once, and what does not fill a whole block
takes as long as one that does.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence

import numpy as np

from kprune.allocation._solver import Costs
from kprune.allocation._solver import remove_until


def whole_blocks(
    counts: np.ndarray, sizes: np.ndarray, block: int
) -> np.ndarray:
    """Return counts rounded up to multiples of `block`, up to `sizes`.

    Args:
        counts: `(groups,)` channels.
        sizes: `(groups,)` channels that there are.
        block: Channels in a block.
    """
    return np.minimum(_blocks(counts, block) * block, sizes)


def _blocks(counts: np.ndarray, block: int) -> np.ndarray:
    """Return how many blocks hold so many channels, the last perhaps not full."""
    return (counts + block - 1) // block


def remove_blocks_until(
    block: int,
    priorities: Sequence[np.ndarray],
    alive: Sequence[np.ndarray],
    floors: np.ndarray,
    evaluate: Callable[[np.ndarray], Costs],
    ceilings: Costs,
    restore: int | None = None,
) -> list[np.ndarray]:
    """Remove blocks of channels, the lowest priority first, until budgets hold.

    Inside a group the channels of the lowest priorities go first. The first block
    takes as many of them as leave a multiple of `block`, each other one takes
    `block`; the priority of a block is the mean of its channels'.

    Args:
        block: Channels in a block.
        priorities: See `remove_until`.
        alive: See `remove_until`.
        floors: See `remove_until`. Rounded up to whole blocks.
        evaluate: See `remove_until`.
        ceilings: See `remove_until`.
        restore: See `remove_until`. Counted in blocks.

    Returns:
        For each group a boolean vector `(size,)`, the channels that are kept: a
        multiple of `block`, or all that are alive.

    Raises:
        ValueError: The ceilings are not met with all groups at their floors.
    """
    totals = _blocks(np.array([len(lives) for lives in alive]), block)
    orders, values, present = [], [], []
    for priority, lives, total in zip(priorities, alive, totals, strict=True):
        living = np.flatnonzero(lives)
        order = living[np.argsort(priority[living], kind="stable")]
        means = _means(priority[order], block)  # (blocks that are left,)
        # Blocks that are gone stand before those that are left: they count where
        # groups of equal priorities take turns.
        gone = np.zeros(total - len(means))
        orders.append(order)
        values.append(np.concatenate([gone, means]))  # (total,)
        present.append(np.arange(total) >= len(gone))  # (total,)
    living_counts = np.array([len(order) for order in orders])  # (groups,)

    def evaluate_blocks(kept: np.ndarray) -> Costs:
        return evaluate(np.minimum(kept * block, living_counts))

    kept_blocks = remove_until(
        values,
        present,
        _blocks(floors, block),
        evaluate_blocks,
        ceilings,
        restore,
    )
    keep = []
    for lives, order, kept in zip(alive, orders, kept_blocks, strict=True):
        # The block that is not full goes first, so that all others are full.
        channels = min(int(kept.sum()) * block, len(order))
        mask = np.zeros(len(lives), bool)
        mask[order[len(order) - channels :]] = True
        keep.append(mask)
    return keep


def _means(ascending: np.ndarray, block: int) -> np.ndarray:
    """Return the priorities of a group's blocks, the first to go first."""
    first = len(ascending) % block or block
    edges = np.arange(first, len(ascending), block)
    values = np.array(
        [part.mean() for part in np.split(ascending, edges) if part.size]
    )
    # The means of equal numbers may differ in the last digit.
    return np.maximum.accumulate(values)
