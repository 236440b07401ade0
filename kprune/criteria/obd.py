"""Optimal brain damage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kprune.criteria._gradients import SampleGradientCriterion
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


@register("obd")
class OBD(SampleGradientCriterion):
    """Second-order change of the loss with a diagonal Hessian.

    The score is `1/2 * sum of weight ** 2 * h` over all weights of the channel:
    filters, biases, scales, offsets, and the weights that read it. The diagonal `h`
    of the Hessian is approximated by the empirical Fisher matrix, the mean of the
    squared gradient over samples. It computes a gradient per sample, so use few
    samples. Use `kprune.allocation.Global(normalize="none")`. After "Optimal Brain
    Damage" (LeCun, Denker and Solla, NIPS 1989), which scores single weights.

    Args:
        samples: Number of samples to draw; `None` for all of `data`.
        seed: Seed of the draw.

    Example:

    ```python
    masked = kprune.prune(
        model,
        criterion="obd",
        allocation=kprune.allocation.Global(normalize="none"),
        data=(x_train, y_train),
    )
    ```
    """

    def scores(
        self, groups: Sequence[Group], session: Session | None
    ) -> Scores:
        gradients = self.gradients(required(session, self))
        curvature = mean(
            {key: np.square(g) for key, g in each.items()} for each in gradients
        )
        squares = {k: np.square(w) / 2.0 for k, w in weights(groups).items()}
        return by_channel(groups, products(squares, curvature))
