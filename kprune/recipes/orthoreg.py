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
    """A penalty makes filters orthonormal; then many go at once.

    Args:
        reduce: See `kprune.recipe`.
        data: Training samples `(x, y)`, for the gradient of the loss.
        epochs: See `kprune.recipe`. A third has the penalty.
        **parts: `regularizer`, a `keras.regularizers.Regularizer`, `layers`,
            see `kprune.regularizers.attach`, and arguments of
            `kprune.callbacks.PruneCallback`: `criterion`, `allocation`,
            `schedule`. The penalty ends when pruning begins.
    """

    summary = (
        "Filters are trained towards being orthogonal to each other and of length "
        "1, so that what is known of each adds up for many. Then those go without "
        "which the loss changes least, to first order, ranked over all layers, and "
        "the rest is fine-tuned."
    )
    removal = "the filters of least importance go, for good"
    citation = (
        "E. S. Lubana, P. Trivedi, C. Hougen, R. P. Dick and A. O. Hero, "
        '"OrthoReg: Robust Network Pruning Using Orthonormality Regularization", '
        "2020"
    )
    url = "https://arxiv.org/abs/2009.05014"
    when = (
        "Labels for one pass, and a run that is long enough for filters to "
        "become orthogonal."
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
