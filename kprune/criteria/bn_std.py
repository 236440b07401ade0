"""Spread of activations, from batch normalisation alone."""

from __future__ import annotations

import numpy as np

from kprune.criteria._gaussian import GaussianCriterion
from kprune.criteria._gaussian import Moments
from kprune.criteria.base import register


@register("bn_std")
class BNStd(GaussianCriterion):
    """Standard deviation of a channel's activation, from batch normalisation alone.

    As `BNAct`, but what does not vary has a score of 0: what a layer that reads
    it makes of a constant can be put into a bias (`recover="bias"`).

    Example:

    ```python
    masked = kprune.prune(model, criterion="bn_std", reduce={"macs": 0.5})
    ```
    """

    def statistic(self, found: Moments) -> np.ndarray:
        return np.sqrt(np.maximum(found.square - found.mean**2, 0.0))
