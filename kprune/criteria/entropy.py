"""Entropies of mean activations."""

from __future__ import annotations

import numpy as np

from kprune.arguments import whole
from kprune.criteria._activations import MapCriterion
from kprune.criteria.base import register


@register("entropy")
class Entropy(MapCriterion):
    """Entropy of a channel's mean activation over samples.

    Each sample's activations are averaged over positions. The score is the entropy
    `-sum of p * log(p)` of a histogram of these means, with equal bins between the
    channel's smallest and largest mean. Channels that are nearly the same for all
    samples have low scores. From "An Entropy-based Pruning Method for CNN
    Compression" (Luo and Wu, arXiv 1706.05791). Needs `data`, without labels.

    Args:
        samples: Number of samples to use, from the start; `None` for all.
        bins: Number of bins of the histogram.

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
            # Differences from rounding carry no information.
            if np.ptp(means) > 1e-6 * np.abs(means).max():
                counts, _ = np.histogram(means, self.bins)
                shares = counts[counts > 0] / len(means)
                scores[channel] = -(shares * np.log(shares)).sum()
        return scores
