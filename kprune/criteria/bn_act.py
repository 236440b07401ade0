"""Expected activations, from batch normalisation alone."""

from __future__ import annotations

import numpy as np

from kprune.criteria._gaussian import GaussianCriterion
from kprune.criteria._gaussian import Moments
from kprune.criteria.base import register


@register("bn_act")
class BNAct(GaussianCriterion):
    """Expected size of a channel's activation, from batch normalisation alone.

    Behind a BatchNormalization a channel is about normal with mean `beta` and
    deviation `|gamma|`; the score is the mean absolute value of that after the
    activation that follows, in closed form for ReLU, ReLU6, leaky ReLU and none
    (before a sum), by quadrature for any other. Where a channel passes several,
    the mean counts. Needs no samples. Groups without one are scored by the
    rescaled lengths of their filters; a log line names them. From "Batch
    Normalization Tells You Which Filter is Important" (Oh et al., WACV 2022,
    arXiv 2112.01155).

    A channel with a `gamma` near 0 has a large score if `beta` is large, though
    it is as good as a constant: see `BNStd`.

    Example:

    ```python
    masked = kprune.prune(model, criterion="bn_act", reduce={"macs": 0.5})
    ```
    """

    def statistic(self, found: Moments) -> np.ndarray:
        return found.size
