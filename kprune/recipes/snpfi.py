"""Choose filters by their importance and by how they work together."""

from __future__ import annotations

from typing import Any

import keras

from kprune import recovery
from kprune import schedules
from kprune.callbacks import PruneCallback
from kprune.recipes._hard import HardRecipe
from kprune.recipes.base import register
from kprune.recovery.base import in_order


@register("snpfi")
class SNPFI(HardRecipe):
    """Prune layers by how their filters interact, then restore the interactions.

    Args:
        reduce: See `kprune.recipe`.
        data: Training samples `(x, y)`; the loss is measured on 256 of them
            for each of many sets of filters.
        epochs: See `kprune.recipe`. All of them fine-tune.
        **parts: `matching`, a recovery such as
            `kprune.recovery.InteractionMatch`, and arguments of
            `kprune.callbacks.PruneCallback`: `criterion`, `allocation`,
            `schedule`.
    """

    summary = (
        "The gain from the filters of a layer together, beyond the gain from each "
        "alone, decides how many are removed; their Shapley values decide which. Then "
        "the model is trained, without labels, until sets of filters contribute as "
        "they did before."
    )
    removal = (
        "the least important filters are removed; interactions are matched"
    )
    citation = (
        'W. Tang, X. Wei and B. Li, "Structured Network Pruning by Measuring '
        'Filter-wise Interactions", 2023'
    )
    url = "https://arxiv.org/abs/2307.00758"
    when = (
        "You have labels, and much time before training to measure how filters work "
        "together."
    )

    @property
    def defaults(self) -> dict[str, Any]:
        return {
            "criterion": "shapley",
            "allocation": "utilisation",
            "schedule": schedules.OneShot(0),
            "matching": recovery.InteractionMatch(),
        }

    def actions(self) -> list[keras.callbacks.Callback]:
        parts = dict(self.parts)
        # The method matches the model as it is after removal, without a refit.
        repairs = [*in_order(self.recover), parts.pop("matching")]
        return [PruneCallback(**parts, **{**self.task, "recover": repairs})]
