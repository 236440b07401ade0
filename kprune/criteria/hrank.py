"""Ranks of feature maps."""

from __future__ import annotations

import numpy as np

from kprune.criteria._activations import MapCriterion
from kprune.criteria.base import register

TOLERANCE = 1e-5


@register("hrank")
class HRank(MapCriterion):
    """Mean rank of a channel's feature maps.

    Each map is a matrix of shape `(height, width)`, and its rank is averaged over
    samples. Singular values up to `1e-5 * max(height, width)` times the largest
    count as 0. Maps with one axis have rank 0 or 1, and maps with three axes are
    flattened to two. From "HRank: Filter Pruning using High-Rank Feature Map" (Lin
    et al., arXiv 2002.10179). Needs `data`, without labels.

    Args:
        samples: Number of samples to use, from the start; `None` for all.

    Example:

    ```python
    masked = kprune.prune(model, criterion="hrank", data=x_train[:512])
    ```
    """

    def __init__(self, samples: int | None = 500) -> None:
        super().__init__(samples)

    def measure(self, maps: np.ndarray) -> np.ndarray:
        height = maps.shape[2] if maps.ndim > 2 else 1
        matrices = maps.reshape(*maps.shape[:2], height, -1)
        values = np.linalg.svd(matrices, compute_uv=False)
        least = TOLERANCE * max(matrices.shape[2:])
        return (values > least * values[..., :1]).sum(axis=2).astype("float64")
