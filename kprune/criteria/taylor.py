"""How much the loss changes when a channel goes, to first order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kprune.criteria._gradients import LEARNED
from kprune.criteria._gradients import GradientCriterion
from kprune.criteria._gradients import by_channel
from kprune.criteria._gradients import mean
from kprune.criteria._gradients import products
from kprune.criteria._gradients import weights
from kprune.criteria.base import Scores
from kprune.criteria.base import register
from kprune.criteria.base import required
from kprune.graph.call import FILTER

if TYPE_CHECKING:
    from kprune.graph import Group
    from kprune.session import Session


@register("taylor")
class Taylor(GradientCriterion):
    """Squared first-order change of the loss when a channel is removed.

    The score is `mean over batches of (sum of weight * gradient) ** 2`. The sum
    includes all weights of the channel: filters, biases, scales, offsets, and the
    weights that read it. The gradient is that of the compiled loss without
    penalties, in inference mode. Needs a compiled model and `data` with labels.
    From "Importance Estimation for Neural Network Pruning" (Molchanov et al.,
    arXiv 1906.10771).

    Args:
        steps: Number of batches to use; `None` for all.
        filters: Whether to include only filters and their biases, without the
            weights that scale or read a channel.
        averaged: Whether to average over batches before squaring, instead of after.

    Example:

    ```python
    model.compile(loss="sparse_categorical_crossentropy")
    masked = kprune.prune(
        model, criterion="taylor", data=(x_train[:512], y_train[:512])
    )
    ```
    """

    def __init__(
        self,
        steps: int | None = None,
        filters: bool = False,
        averaged: bool = False,
    ) -> None:
        super().__init__(steps)
        self.filters = bool(filters)
        self.averaged = bool(averaged)

    def scores(
        self, groups: Sequence[Group], session: Session | None
    ) -> Scores:
        session = required(session, self)
        sums = {group.name: np.zeros(group.size) for group in groups}
        values = weights(groups)
        roles = [FILTER] if self.filters else LEARNED
        gradients = self.gradients(session)
        count = 0
        for each in [mean(gradients)] if self.averaged else gradients:
            changes = by_channel(groups, products(values, each), roles)
            for name, change in changes.items():
                sums[name] += change**2
            count += 1
        return {name: total / count for name, total in sums.items()}
