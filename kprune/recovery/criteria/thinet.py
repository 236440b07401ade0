"""Which channels add least to what reads them."""

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
    """Error that a channel leaves behind in what reads it, nothing refitted.

    Channels are removed one by one, each time the one with which the sum of what
    the removed ones contribute to the layers behind stays smallest, in the mean
    square. The score is that mean square when a channel goes, relative to that
    of the whole output without bias. With several readers these are added. From
    "ThiNet: A Filter Level Pruning Method for Deep Neural Network Compression"
    (Luo et al., arXiv 1707.06342). `Reconstruction` chooses by the error that
    is left after a refit. Groups that no dense or convolutional layer reads are
    scored by the rescaled lengths of their filters. Needs `data`, without
    labels.

    Args:
        samples: How many samples of the data to use at most.
        rows: How many rows (samples times places of the output) each layer's
            statistics use at most.

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
    """Return mean products of what each two channels contribute, `(size, size)`."""
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
    """Return the error reached when each channel goes, `(size,)`."""
    left = list(range(len(products)))
    scores = np.zeros(len(products))
    # Twice the products with all that are gone, plus a channel's own.
    rise = products.diagonal().copy()
    error, level = 0.0, 0.0
    while left:
        channel = left.pop(int(np.argmin(rise[left])))
        error += float(rise[channel])
        # Errors fall where contributions cancel; the order holds all the same.
        scores[channel] = level = max(error, np.nextafter(level, np.inf))
        rise += 2.0 * products[channel]
    return scores
