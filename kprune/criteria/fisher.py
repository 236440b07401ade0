"""Fisher information of a channel's activations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kprune.criteria._gradients import SampleGradientCriterion
from kprune.criteria._gradients import by_channel
from kprune.criteria._gradients import products
from kprune.criteria._gradients import weights
from kprune.criteria.base import Scores
from kprune.criteria.base import register
from kprune.criteria.base import required
from kprune.graph.call import FILTER

if TYPE_CHECKING:
    from kprune.graph import Group
    from kprune.session import Session


@register("fisher")
class Fisher(SampleGradientCriterion):
    """Second-order change of the loss when a channel is removed, by Fisher information.

    The score is `1 / (2 N) * sum over samples of (sum over positions of z *
    dL/dz) ** 2`, where `z` is the output of the layer that produces the channel.
    Because `z` is linear in the layer's weights, the inner sum equals that of
    `weight * gradient` over the filter and its bias. If several layers produce a
    channel, they are summed inside the square. It computes a gradient per sample,
    so use few samples. Scores are comparable across groups: use
    `kprune.allocation.Global(normalize="none")`. From "Faster gaze prediction with
    dense networks and Fisher pruning" (Theis et al., arXiv 1801.05787).

    Args:
        samples: Number of samples to draw; `None` for all of `data`.
        seed: Seed of the draw.

    Example:

    ```python
    masked = kprune.prune(
        model,
        criterion="fisher",
        allocation=kprune.allocation.Global(normalize="none"),
        data=(x_train, y_train),
    )
    ```
    """

    def scores(
        self, groups: Sequence[Group], session: Session | None
    ) -> Scores:
        session = required(session, self)
        values = weights(groups)
        sums = {group.name: np.zeros(group.size) for group in groups}
        count = 0
        for gradients in self.gradients(session):
            slopes = products(values, gradients)
            changes = by_channel(groups, slopes, roles=[FILTER])
            for name, change in changes.items():
                sums[name] += change**2
            count += 1
        return {name: total / (2.0 * count) for name, total in sums.items()}
