"""Magnitude and similarity based variable rate filter pruning."""

from __future__ import annotations

from typing import Any

from kprune import allocation
from kprune import schedules
from kprune.recipes._hard import HardRecipe
from kprune.recipes._timing import removal_epoch
from kprune.recipes.base import register

STEP = 0.03
"""Share of the costs that goes between epochs of training."""


@register("msvfp")
class MSVFP(HardRecipe):
    """The layer whose filters cost least loss gives some up, again and again.

    Args:
        reduce: See `kprune.recipe`.
        data: Training samples `(x, y)`; the loss is measured on 10,000 of them.
        epochs: See `kprune.recipe`. One for each 3 % of the costs, the rest
            to fine-tune; larger steps where that is more than a third.
        **parts: Arguments of `kprune.callbacks.PruneCallback`: `criterion`,
            `allocation`, `schedule`.
    """

    summary = (
        "Each layer in turn is tried without a tenth of its filters, and the one "
        "whose loss rises least gives them up. Short filters go in the first half, "
        "those that resemble the rest in the second. Training every 3 %."
    )
    removal = "the filters that cost least loss go, for good"
    citation = (
        'D. Ghimire and S.-H. Kim, "Magnitude and Similarity Based Variable Rate '
        'Filter Pruning for Efficient Convolution Neural Networks", Applied '
        "Sciences 13(1):316, 2023"
    )
    url = "https://doi.org/10.3390/app13010316"
    when = (
        "You distrust scores and have labels and time: each step is the one "
        "that costs least loss."
    )

    @property
    def defaults(self) -> dict[str, Any]:
        most = removal_epoch(self.epochs)
        target = max(self.reduce.values(), default=STEP)
        return {
            "criterion": "msvfp",
            "allocation": allocation.GreedyLoss(samples=10_000),
            "schedule": schedules.Increments(max(STEP, target / most)),
        }
