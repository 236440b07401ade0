"""Error of removing a channel without a refit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kprune.criteria.base import register
from kprune.recovery._elimination import Reader
from kprune.recovery.criteria._readers import ReaderCriterion

if TYPE_CHECKING:
    from kprune.graph import Group
    from kprune.graph import Member


@register("thinet")
class ThiNet(ReaderCriterion):
    """Error in a channel's readers if it is removed without a refit.

    Channels are removed one by one, always the one that keeps the summed
    contribution of all removed channels to the next layers smallest, in the mean
    square. The score is this mean square when a channel is removed, relative to
    that of the whole output without bias; those of several readers are summed.
    From "ThiNet: A Filter Level Pruning Method for Deep Neural Network
    Compression" (Luo et al., arXiv 1707.06342). `Reconstruction` uses the error
    after a refit instead. Groups that no dense or convolutional layer reads are
    scored by the rescaled norms of their filters. Needs `data`, without labels.

    Args:
        samples: Largest number of samples to use.
        rows: Largest number of rows (samples times output positions) per layer.

    Example:

    ```python
    masked = kprune.prune(model, criterion="thinet", data=x_train[:1024])
    ```
    """

    def errors(
        self, group: Group, readers: list[tuple[Member, Reader]]
    ) -> np.ndarray:
        products = sum(_products(member, reader) for member, reader in readers)
        return _errors(np.asarray(products))


def _products(member: Member, reader: Reader) -> np.ndarray:
    """Return the mean products of two channels' contributions: `(size, size)`."""
    moments = reader.sums.covariance(False)
    weights = reader.matrix()
    parts = moments * (weights @ weights.T)
    total = max(float(parts.sum()), 1e-30)
    columns = reader.columns_of(member)
    belongs = np.zeros((len(columns), len(moments)))
    for channel, mine in enumerate(columns):
        belongs[channel, mine] = 1.0
    return belongs @ parts @ belongs.T / total


def _errors(products: np.ndarray) -> np.ndarray:
    """Return the error reached with each removed channel, of shape `(size,)`."""
    left = list(range(len(products)))
    scores = np.zeros(len(products))
    # A channel's own square, plus twice its products with all removed ones.
    rise = products.diagonal().copy()
    error, level = 0.0, 0.0
    while left:
        channel = left.pop(int(np.argmin(rise[left])))
        error += float(rise[channel])
        # Errors fall if contributions cancel, but scores must follow the order.
        scores[channel] = level = max(error, np.nextafter(level, np.inf))
        rise += 2.0 * products[channel]
    return scores
