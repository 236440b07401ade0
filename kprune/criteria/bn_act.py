"""Expected activations, computed from batch normalisation."""

from __future__ import annotations

import numpy as np

from kprune.criteria._gaussian import GaussianCriterion
from kprune.criteria._gaussian import Moments
from kprune.criteria.base import register


@register("bn_act")
class BNAct(GaussianCriterion):
    """Expected absolute activation of a channel, computed from batch normalisation.

    After a BatchNormalization, a channel is about normally distributed with mean
    `beta` and standard deviation `|gamma|`. The score is its mean absolute value
    after the following activation: in closed form for ReLU, ReLU6, leaky ReLU and
    no activation (before a sum), by quadrature for any other. If a channel passes
    several BatchNormalization layers, their mean is used. Needs no samples. Groups
    without one are scored by the rescaled norms of their filters; a log line names
    them. From "Batch Normalization Tells You Which Filter is Important" (Oh et
    al., WACV 2022, arXiv 2112.01155).

    A channel with `gamma` near 0 and large `beta` is nearly constant, but has a
    large score. See `BNStd`.

    Example:

    ```python
    masked = kprune.prune(model, criterion="bn_act", reduce={"macs": 0.5})
    ```
    """

    def statistic(self, found: Moments) -> np.ndarray:
        return found.size
