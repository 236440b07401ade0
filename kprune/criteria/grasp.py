"""Gradient signal preservation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kprune.criteria._gradients import Arrays
from kprune.criteria._gradients import GradientCriterion
from kprune.criteria._gradients import by_channel
from kprune.criteria._gradients import mean
from kprune.criteria._gradients import products
from kprune.criteria._gradients import weights
from kprune.criteria.base import Scores
from kprune.criteria.base import register
from kprune.criteria.base import required
from kprune.graph.values import read

if TYPE_CHECKING:
    from kprune.graph import Group
    from kprune.session import Session

STEP = 1e-2
"""Norm of the finite-difference step, relative to the norm of the weights."""


@register("grasp")
class GraSP(GradientCriterion):
    """Decrease of the gradient norm when a channel is removed.

    The score is the sum of `weight * (H g)` over all weights of the channel, where
    `g` is the mean gradient and `H` the Hessian of the compiled loss. To first
    order, removing the channel changes the squared norm of the gradient by minus
    twice the score. Channels whose removal increases the norm have low scores.
    `H g` is computed as a central difference of gradients along `g`, which works on
    any backend and takes three passes over the samples. Meant for untrained
    networks. Use `kprune.allocation.Global(normalize="none")`. From "Picking
    Winning Tickets Before Training by Preserving Gradient Flow" (Wang et al.,
    arXiv 2002.07376), which scores single weights.

    Args:
        steps: Number of batches to use; `None` for all.

    Example:

    ```python
    masked = kprune.prune(
        model,
        criterion="grasp",
        allocation=kprune.allocation.Global(normalize="none"),
        data=(x_train[:512], y_train[:512]),
    )
    ```
    """

    def scores(
        self, groups: Sequence[Group], session: Session | None
    ) -> Scores:
        session = required(session, self)
        gradient = mean(self.gradients(session))
        curvature = self._along(session, gradient)
        return by_channel(groups, products(weights(groups), curvature))

    def _along(self, session: Session, direction: Arrays) -> Arrays:
        """Return the product of the Hessian and a direction."""
        variables = {
            id(v): v for v in session.masked.variables if id(v) in direction
        }
        values = {k: read(v).astype("float64") for k, v in variables.items()}
        length = np.sqrt(sum(np.square(d).sum() for d in direction.values()))
        if not length:
            return direction
        size = np.sqrt(sum(np.square(v).sum() for v in values.values()))
        step = STEP * size / length
        ends = []
        for sign in (1.0, -1.0):
            moved = [
                (v, values[k] + sign * step * direction[k])
                for k, v in variables.items()
            ]
            with session.trial(weights=moved):
                ends.append(mean(self.gradients(session)))
        ahead, behind = ends
        return {k: (ahead[k] - behind[k]) / (2.0 * step) for k in ahead}
