"""Filter importance from the parameters of batch normalisation."""

from __future__ import annotations

from typing import Any

from kprune import schedules
from kprune.recipes._hard import HardRecipe
from kprune.recipes.base import register


@register("bn-importance")
class BNImportance(HardRecipe):
    """Remove filters with small expected activations before training.

    Args:
        reduce: See `kprune.recipe`.
        data: See `kprune.recipe`. Other criteria may need it.
        epochs: See `kprune.recipe`. All of them fine-tune.
        **parts: Arguments of `kprune.callbacks.PruneCallback`: `criterion`,
            `allocation`, `schedule`.
    """

    summary = (
        "Scale and offset of a BatchNormalization tell how large the activation of "
        "a channel is on average, without any data. The channels with the smallest "
        "activations are removed at once, before the first epoch."
    )
    removal = "the filters with the smallest activations are removed"
    citation = (
        'J. Oh, H. Kim, S. Baik, C. Hong and K. M. Lee, "Batch Normalization Tells '
        'You Which Filter is Important", WACV 2022'
    )
    url = "https://arxiv.org/abs/2112.01155"
    when = (
        "You have nothing but a trained model with batch normalisation, and want to "
        "spend all epochs on fine-tuning."
    )

    @property
    def defaults(self) -> dict[str, Any]:
        return {
            "criterion": "bn_act",
            "allocation": "global",
            "schedule": schedules.OneShot(0),
        }
