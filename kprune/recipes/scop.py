"""Scientific control: channels against those of knockoffs."""

from __future__ import annotations

from typing import Any

import keras

from kprune import recovery
from kprune import schedules
from kprune.callbacks import PruneCallback
from kprune.recipes._hard import HardRecipe
from kprune.recipes.base import register


@register("scop")
class SCOP(HardRecipe):
    """Filters go that serve no better than what they make of knockoffs.

    Args:
        reduce: See `kprune.recipe`.
        data: Training samples `(x, y)`; shares are learned on 200 batches.
        epochs: See `kprune.recipe`. All of them fine-tune.
        **parts: `refresh`, a recovery that measures batch normalisation again,
            and arguments of `kprune.callbacks.PruneCallback`: `criterion`,
            `allocation`, `schedule`.
    """

    summary = (
        "Each filter's output is mixed with what it makes of a knockoff: an image "
        "with the same spectrum and no content. The share of the real one is learned "
        "for each; those go for which it is smallest, times their scale."
    )
    removal = "the filters no better than their knockoffs go"
    citation = (
        "Y. Tang, Y. Wang, Y. Xu, D. Tao, C. Xu, C. Xu and C. Xu, "
        '"SCOP: Scientific Control for Reliable Neural Network Pruning", '
        "NeurIPS 2020"
    )
    url = "https://arxiv.org/abs/2010.10732"
    when = (
        "Labels, and doubt whether a filter that is active tells anything of an "
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
        repairs = [parts.pop("refresh")]
        if self.recover is not None:
            repairs.append(self.recover)
        return [PruneCallback(**parts, **{**self.task, "recover": repairs})]
