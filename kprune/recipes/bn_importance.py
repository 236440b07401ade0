"""Filters by what batch normalisation says of their activations."""

from __future__ import annotations

from typing import Any

from kprune import schedules
from kprune.recipes._hard import HardRecipe
from kprune.recipes.base import register


@register("bn-importance")
class BNImportance(HardRecipe):
    """Filters whose activation is expected to be small go, before training.

    Args:
        reduce: See `kprune.recipe`.
        data: See `kprune.recipe`. Other criteria may need it.
        epochs: See `kprune.recipe`. All of them fine-tune.
        **parts: Arguments of `kprune.callbacks.PruneCallback`: `criterion`,
            `allocation`, `schedule`.
    """

    summary = (
        "Scale and offset of a BatchNormalization say how large a channel's "
        "activation is on the average, without any data. Those with the smallest go "
        "at once, before the first epoch."
    )
    removal = "the filters with the smallest activations go"
    citation = (
        'J. Oh, H. Kim, S. Baik, C. Hong and K. M. Lee, "Batch Normalization Tells '
        'You Which Filter is Important", WACV 2022'
    )
    url = "https://arxiv.org/abs/2112.01155"
    when = (
        "Nothing but a trained model with batch normalisation, and all "
        "epochs to fine-tune."
    )

    @property
    def defaults(self) -> dict[str, Any]:
        return {
            "criterion": "bn_act",
            "allocation": "global",
            "schedule": schedules.OneShot(0),
        }
