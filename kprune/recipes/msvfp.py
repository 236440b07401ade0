"""Magnitude and similarity based variable rate filter pruning."""

from __future__ import annotations

from typing import Any

from kprune import allocation
from kprune import schedules
from kprune.recipes._hard import HardRecipe
from kprune.recipes._timing import removal_epoch
from kprune.recipes.base import register

STEP = 0.03
"""Share of the costs to remove between epochs of training."""


@register("msvfp")
class MSVFP(HardRecipe):
    """Remove filters step by step from the layer where the loss rises least.

    Args:
        reduce: See `kprune.recipe`.
        data: Training samples `(x, y)`; the loss is measured on 10,000 of them.
        epochs: See `kprune.recipe`. Each epoch removes 3 % of the costs, or more
            if that would take over a third of the epochs. The rest fine-tunes.
        **parts: Arguments of `kprune.callbacks.PruneCallback`: `criterion`,
            `allocation`, `schedule`.
    """

    summary = (
        "Each layer in turn is tried without a tenth of its filters, and the layer "
        "where the loss rises least loses them. The first half of the removals takes "
        "short filters, the second half those that resemble others. The model is "
        "trained after every 3 %."
    )
    removal = "the filters that raise the loss least are removed"
    citation = (
        'D. Ghimire and S.-H. Kim, "Magnitude and Similarity Based Variable Rate '
        'Filter Pruning for Efficient Convolution Neural Networks", Applied '
        "Sciences 13(1):316, 2023"
    )
    url = "https://doi.org/10.3390/app13010316"
    when = (
        "You distrust scores, and have labels and time: each step is the one that "
        "raises the loss least."
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
