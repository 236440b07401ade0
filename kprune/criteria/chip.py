"""Channel independence."""

from __future__ import annotations

import numpy as np

from kprune.criteria._activations import MapCriterion
from kprune.criteria.base import register


@register("chip")
class CHIP(MapCriterion):
    """How much a channel's feature map adds to those of the others.

    The maps of one sample are the rows of a matrix `(size, positions)`. A
    channel's score is by how much the nuclear norm (the sum of the singular
    values) falls when its row is set to 0, averaged over samples: a map that
    others can make up for goes first. From "CHIP: CHannel Independence-based
    Pruning for Compact Neural Networks" (Sui et al., arXiv 2110.13981). Needs
    `data`; targets are not looked at. Takes one decomposition a channel and
    sample, so keep their number low.

    Args:
        samples: How many samples to look at, the first ones; `None` for all.

    Example:

    ```python
    masked = kprune.prune(model, criterion="chip", data=x_train[:64])
    ```
    """

    def __init__(self, samples: int | None = 64) -> None:
        super().__init__(samples)

    def measure(self, maps: np.ndarray) -> np.ndarray:
        rows = maps.reshape(*maps.shape[:2], -1)
        gram = rows @ rows.transpose(0, 2, 1)
        count = gram.shape[1]
        whole = _nuclear(gram)
        falls = np.zeros(gram.shape[:2])
        for channel in range(count):
            others = np.delete(np.arange(count), channel)
            falls[:, channel] = whole - _nuclear(gram[:, others][:, :, others])
        return falls


def _nuclear(gram: np.ndarray) -> np.ndarray:
    """Return the sums of singular values from the products of rows."""
    squares = np.linalg.eigvalsh(gram)
    return np.sqrt(np.maximum(squares, 0.0)).sum(axis=1)
