"""Channel independence: the nuclear norm that a feature map contributes."""

from __future__ import annotations

import numpy as np

from kprune.criteria._activations import MapCriterion
from kprune.criteria.base import register


@register("chip")
class CHIP(MapCriterion):
    """Independence of a channel's feature map from those of the others.

    The maps of one sample are the rows of a matrix of shape `(size, positions)`. A
    channel's score is the decrease of the nuclear norm (the sum of singular
    values) when its row is set to 0, averaged over samples. Maps that others can
    replace have low scores. From "CHIP: CHannel Independence-based Pruning for
    Compact Neural Networks" (Sui et al., arXiv 2110.13981). Needs `data`, without
    labels. It computes a decomposition per channel and sample, so use few samples.

    Args:
        samples: Number of samples to use, from the start; `None` for all.

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
    """Return the sums of singular values, given the products of rows."""
    squares = np.linalg.eigvalsh(gram)
    return np.sqrt(np.maximum(squares, 0.0)).sum(axis=1)
