"""Entropy of a channel's mean activation."""

from __future__ import annotations

import numpy as np

from kprune.arguments import whole
from kprune.criteria._activations import MapCriterion
from kprune.criteria.base import register


@register("entropy")
class Entropy(MapCriterion):
    """Entropy, over samples, of a channel's mean activation.

    Each sample's activations are averaged over positions. A histogram of these
    means, with equal bins between the channel's least and largest one, has the
    entropy `-sum of p * log(p)`; a channel that says nearly the same of every
    sample goes first. From "An Entropy-based Pruning Method for CNN Compression"
    (Luo and Wu, arXiv 1706.05791). Needs `data`; targets are not looked at.

    Args:
        samples: How many samples to look at, the first ones; `None` for all.
        bins: Bins of the histogram.

    Example:

    ```python
    masked = kprune.prune(model, criterion="entropy", data=x_train[:2048])
    ```
    """

    def __init__(self, samples: int | None = None, bins: int = 100) -> None:
        super().__init__(samples)
        self.bins = whole(bins, "Entropy", "bins", 2, "bins")

    def measure(self, maps: np.ndarray) -> np.ndarray:
        return maps.reshape(*maps.shape[:2], -1).mean(axis=2)

    def combine(self, values: np.ndarray) -> np.ndarray:
        scores = np.zeros(values.shape[1])
        for channel, means in enumerate(values.T):
            # Rounding is no information.
            if np.ptp(means) > 1e-6 * np.abs(means).max():
                counts, _ = np.histogram(means, self.bins)
                shares = counts[counts > 0] / len(means)
                scores[channel] = -(shares * np.log(shares)).sum()
        return scores
