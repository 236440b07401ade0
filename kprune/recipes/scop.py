"""Scientific control: compare channels with those of knockoff images."""

from __future__ import annotations

from typing import Any

import keras

from kprune import recovery
from kprune import schedules
from kprune.callbacks import PruneCallback
from kprune.recipes._hard import HardRecipe
from kprune.recipes.base import register
from kprune.recovery.base import in_order


@register("scop")
class SCOP(HardRecipe):
    """Remove filters whose outputs serve no better than those of knockoff images.

    Args:
        reduce: See `kprune.recipe`.
        data: Training samples `(x, y)`; shares are learned on 200 batches.
        epochs: See `kprune.recipe`. All of them fine-tune.
        **parts: `refresh`, a recovery that re-estimates batch statistics,
            and arguments of `kprune.callbacks.PruneCallback`: `criterion`,
            `allocation`, `schedule`.
    """

    summary = (
        "The output of each filter is mixed with its output for a knockoff: an image "
        "with the same spectrum but no content. The share of the real output is "
        "learned. The filters with the smallest share, times their scale, are removed."
    )
    removal = "the filters no better than on knockoffs are removed"
    citation = (
        "Y. Tang, Y. Wang, Y. Xu, D. Tao, C. Xu, C. Xu and C. Xu, "
        '"SCOP: Scientific Control for Reliable Neural Network Pruning", '
        "NeurIPS 2020"
    )
    url = "https://arxiv.org/abs/2010.10732"
    when = (
        "You have labels, and doubt that an active filter tells anything about the "
        "image."
    )

    @property
    def defaults(self) -> dict[str, Any]:
        return {
            "criterion": "knockoff",
            "allocation": "uniform",
            "schedule": schedules.OneShot(0),
            "refresh": recovery.BatchStatistics(),
        }

    def actions(self) -> list[keras.callbacks.Callback]:
        parts = dict(self.parts)
        repairs = in_order(parts.pop("refresh"), self.recover)
        return [PruneCallback(**parts, **{**self.task, "recover": repairs})]
