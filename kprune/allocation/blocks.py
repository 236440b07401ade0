"""Blocks of channels: a budget met with counts that are multiples of a number.

Kernels work on several channels at once, and what does not fill a whole block
takes as long as one that does.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence

import numpy as np

from kprune.allocation.solver import Costs
from kprune.allocation.solver import remove_until


def whole_blocks(
    counts: np.ndarray, sizes: np.ndarray, block: int
) -> np.ndarray:
    """Return counts rounded up to multiples of `block`, up to `sizes`.

    Args:
        counts: `(groups,)` channels.
        sizes: `(groups,)` channels that there are.
        block: Channels in a block.
    """
    return np.minimum(-(-counts // block) * block, sizes)


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
    orders = [
        living[np.argsort(priority[living], kind="stable")]
        for priority, living in zip(
            priorities, map(np.flatnonzero, alive), strict=True
        )
    ]
    counts = np.array([len(order) for order in orders])
    means = [
        _means(priority[order], block)
        for priority, order in zip(priorities, orders, strict=True)
    ]
    # Blocks that are gone count where groups of equal priorities take turns.
    most = [-(-len(lives) // block) for lives in alive]
    blocks = remove_until(
        [
            np.pad(values, (n - len(values), 0))
            for values, n in zip(means, most, strict=True)
        ],
        [
            np.arange(n) >= n - len(values)
            for values, n in zip(means, most, strict=True)
        ],
        -(-floors // block),
        lambda kept: evaluate(np.minimum(kept * block, counts)),
        ceilings,
        restore,
    )
    keep = []
    for lives, order, left in zip(alive, orders, blocks, strict=True):
        mask = np.zeros(len(lives), bool)
        gone = max(0, len(order) - int(left.sum()) * block)
        mask[order[gone:]] = True
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
