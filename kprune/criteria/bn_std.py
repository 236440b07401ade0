"""Standard deviations of activations, computed from batch normalisation."""

from __future__ import annotations

import numpy as np

from kprune.criteria._gaussian import GaussianCriterion
from kprune.criteria._gaussian import Moments
from kprune.criteria.base import register


@register("bn_std")
class BNStd(GaussianCriterion):
    """Standard deviation of a channel's activation, from batch normalisation.

    Like `BNAct`, but constant channels have a score of 0: their effect on the next
    layer can be moved to its bias (`recover="bias"`).

    Example:

    ```python
    masked = kprune.prune(model, criterion="bn_std", reduce={"macs": 0.5})
    ```
    """

    def statistic(self, found: Moments) -> np.ndarray:
        return np.sqrt(np.maximum(found.square - found.mean**2, 0.0))
