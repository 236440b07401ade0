"""Which channels the layers that read them can do without."""

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
    """Least-squares error that a channel leaves behind in what reads it.

    Channels are removed one by one, each time the one whose removal can best
    be made up for by the others: by refitting, in the sense of least squares,
    the kernels of the dense and convolutional layers that read the group. The
    score is the error reached when a channel goes, relative to the variance of
    the layers' outputs. With several readers their errors are added. This is
    the greedy choice of "ThiNet" (Luo et al., arXiv 1707.06342) run backwards
    and with refitted weights, in closed form as in "Optimal Brain Surgeon"
    (Hassibi and Stork, 1993). Groups that no such layer reads are scored by
    the rescaled lengths of their filters. Needs `data`, without labels; goes
    well with `recover="reconstruct"`.

    Args:
        samples: How many samples of the data to use at most.
        rows: How many rows (samples times places of the output) each layer's
            statistics use at most.

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
    """One reader while channels of one group go."""

    def __init__(self, member: Member, reader: Reader) -> None:
        h = reader.covariance()
        self.inverse = np.linalg.inv(h)
        self.weights = reader.matrix()
        self.columns = reader.columns_of(member)
        spread = np.einsum("co,co->", self.weights, h @ self.weights)
        self.scale = 1.0 / max(float(spread), 1e-30)

    def costs(self, channels: list[int]) -> np.ndarray:
        """Return by how much the error rises when each channel goes."""
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
        """Take a channel out; the others make up for it."""
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
    """Return the error reached when each channel goes, `(group.size,)`."""
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
        # Rounding must not undo the order.
        scores[channel] = total = np.nextafter(total, np.inf)
        for reader in readers:
            reader.remove(channel)
    for channel in alive:
        scores[channel] = max(float(len(readers)), 2.0 * total)
    return scores
