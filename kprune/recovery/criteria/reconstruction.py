"""Least-squares error of removing a channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kprune.criteria.base import register
from kprune.recovery._elimination import Reader
from kprune.recovery.criteria._readers import ReaderCriterion

if TYPE_CHECKING:
    from kprune.graph import Group
    from kprune.graph import Member


@register("reconstruction")
class Reconstruction(ReaderCriterion):
    """Error in a channel's readers that the other channels cannot compensate.

    Channels are removed one by one, always the one that the others can
    compensate best, by a least-squares refit of the dense and convolutional
    layers that read the group. The score is the error reached when a channel is
    removed, relative to the variance of the layers' outputs; the errors of
    several readers are summed. This is the greedy choice of "ThiNet" (Luo et
    al., arXiv 1707.06342) in reverse and with refitted weights, in closed form
    as in "Optimal Brain Surgeon" (Hassibi and Stork, 1993). Groups that no such
    layer reads are scored by the rescaled norms of their filters. Needs `data`,
    without labels. Use it with `recover="reconstruct"`.

    Args:
        samples: Largest number of samples to use.
        rows: Largest number of rows (samples times output positions) per layer.

    Example:

    ```python
    masked = kprune.prune(
        model,
        criterion="reconstruction",
        data=x_train[:1024],
        recover="reconstruct",
    )
    ```
    """

    def errors(
        self, group: Group, readers: list[tuple[Member, Reader]]
    ) -> np.ndarray:
        return _errors(group, readers)


class _Elimination:
    """One reader while the channels of one group are removed."""

    def __init__(self, member: Member, reader: Reader) -> None:
        h = reader.covariance()
        self.inverse = np.linalg.inv(h)
        self.weights = reader.matrix()
        self.columns = reader.columns_of(member)
        spread = np.einsum("co,co->", self.weights, h @ self.weights)
        self.scale = 1.0 / max(float(spread), 1e-30)

    def costs(self, channels: list[int]) -> np.ndarray:
        """Return the increase of the error for the removal of each channel."""
        sizes = {len(self.columns[c]) for c in channels}
        if len(sizes) != 1:
            return np.array([self._cost(self.columns[c]) for c in channels])
        if sizes == {0}:
            return np.zeros(len(channels))
        index = np.array([self.columns[c] for c in channels])
        blocks = self.inverse[index[:, :, None], index[:, None, :]]
        weights = self.weights[index]
        solved = np.linalg.solve(blocks, weights)
        return self.scale * np.einsum("gco,gco->g", weights, solved)

    def _cost(self, index: np.ndarray) -> float:
        if not len(index):
            return 0.0
        weights = self.weights[index]
        solved = np.linalg.solve(self.inverse[np.ix_(index, index)], weights)
        return self.scale * float(np.einsum("co,co->", weights, solved))

    def remove(self, channel: int) -> None:
        """Remove a channel and update the weights of the others."""
        index = self.columns[channel]
        if not len(index):
            return
        block = self.inverse[np.ix_(index, index)]
        rows = np.linalg.solve(block, self.inverse[index])
        change = np.linalg.solve(block, self.weights[index])
        spread = self.inverse[:, index]
        self.weights = self.weights - spread @ change
        self.inverse = self.inverse - spread @ rows


def _errors(group: Group, mine: list[tuple[Member, Reader]]) -> np.ndarray:
    """Return the error reached with each removed channel, of shape `(group.size,)`."""
    readers = [_Elimination(member, reader) for member, reader in mine]
    alive = [
        c for c in range(group.size) if any(len(r.columns[c]) for r in readers)
    ]
    scores = np.zeros(group.size)
    total = 0.0
    while len(alive) > 1:
        costs = np.sum([r.costs(alive) for r in readers], axis=0)
        first = int(np.argmin(costs))
        channel = alive.pop(first)
        total += max(float(costs[first]), 0.0)
        # Scores rise strictly, so that rounding cannot change the order.
        scores[channel] = total = np.nextafter(total, np.inf)
        for reader in readers:
            reader.remove(channel)
    for channel in alive:
        scores[channel] = max(float(len(readers)), 2.0 * total)
    return scores
