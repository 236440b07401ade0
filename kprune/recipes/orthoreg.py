"""Orthonormal filters, ranked by gradients."""

from __future__ import annotations

from typing import Any

from kprune import allocation
from kprune import criteria
from kprune import regularizers
from kprune import schedules
from kprune.recipes._hard import PenalisedRecipe
from kprune.recipes._timing import removal_epoch
from kprune.recipes.base import register


@register("orthoreg")
class OrthoReg(PenalisedRecipe):
    """Make filters orthonormal with a penalty, then remove many at once.

    Args:
        reduce: See `kprune.recipe`.
        data: Training samples `(x, y)`, for the gradient of the loss.
        epochs: See `kprune.recipe`. The first third trains with the penalty.
        **parts: `regularizer`, a `keras.regularizers.Regularizer`; `layers`,
            see `kprune.regularizers.attach`; and arguments of
            `kprune.callbacks.PruneCallback`: `criterion`, `allocation`,
            `schedule`. The penalty ends when pruning begins.
    """

    summary = (
        "A penalty trains filters to be orthogonal to each other and of length 1, so "
        "that the importance of several filters is the sum of their own. Then the "
        "filters that change the loss least, to first order and over all layers, are "
        "removed, and the rest is fine-tuned."
    )
    removal = "the least important filters are removed"
    citation = (
        "E. S. Lubana, P. Trivedi, C. Hougen, R. P. Dick and A. O. Hero, "
        '"OrthoReg: Robust Network Pruning Using Orthonormality Regularization", '
        "2020"
    )
    url = "https://arxiv.org/abs/2009.05014"
    when = (
        "You have labels, and can train long enough for filters to become "
        "orthogonal."
    )

    @property
    def defaults(self) -> dict[str, Any]:
        return {
            "regularizer": regularizers.Orthonormal(),
            "layers": None,
            "criterion": criteria.Taylor(filters=True, averaged=True),
            "allocation": allocation.Global("none", max_share=0.95),
            "schedule": schedules.OneShot(removal_epoch(self.epochs)),
        }
