"""Connection sensitivity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kprune.criteria._gradients import GradientCriterion
from kprune.criteria._gradients import by_channel
from kprune.criteria._gradients import mean
from kprune.criteria._gradients import products
from kprune.criteria._gradients import weights
from kprune.criteria.base import Scores
from kprune.criteria.base import register
from kprune.criteria.base import required

if TYPE_CHECKING:
    from kprune.graph import Group
    from kprune.session import Session


@register("snip")
class SNIP(GradientCriterion):
    """A channel's share of the network's connection sensitivity.

    The score is the sum of `|weight * gradient|` over all weights of the channel
    (filters, biases, scales, offsets, and the weights that read it), divided by the
    sum over all channels. The gradient of the compiled loss is averaged over
    batches, in inference mode. Meant for untrained networks. Scores are comparable
    across groups: use `kprune.allocation.Global(normalize="none")`. From "SNIP:
    Single-shot Network Pruning based on Connection Sensitivity" (Lee et al.,
    arXiv 1810.02340), which scores single weights.

    Args:
        steps: Number of batches to use; `None` for all.

    Example:

    ```python
    masked = kprune.prune(
        model,
        criterion="snip",
        allocation=kprune.allocation.Global(normalize="none"),
        data=(x_train[:512], y_train[:512]),
    )
    ```
    """

    def scores(
        self, groups: Sequence[Group], session: Session | None
    ) -> Scores:
        gradient = mean(self.gradients(required(session, self)))
        changes = products(weights(groups), gradient)
        sums = by_channel(groups, {k: np.abs(c) for k, c in changes.items()})
        total = sum(float(values.sum()) for values in sums.values())
        return {name: v / (total or 1.0) for name, v in sums.items()}
