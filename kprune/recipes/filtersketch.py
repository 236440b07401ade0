"""Sketched filters as a starting point for training."""

from __future__ import annotations

from typing import Any

import keras

from kprune import recovery
from kprune import schedules
from kprune.callbacks import PruneCallback
from kprune.recipes._hard import HardRecipe
from kprune.recipes.base import register
from kprune.recovery.base import in_order


@register("filtersketch")
class FilterSketch(HardRecipe):
    """Replace the filters of each layer by a smaller matrix that sketches them.

    Args:
        reduce: See `kprune.recipe`.
        data: See `kprune.recipe`. Other criteria may need it.
        epochs: See `kprune.recipe`. All of them fine-tune.
        **parts: `sketch`, a `kprune.recovery.Sketch`, and arguments of
            `kprune.callbacks.PruneCallback`: `criterion`, `allocation`,
            `schedule`.
    """

    summary = (
        "No filter is chosen. Each kernel is replaced by a sketch with fewer filters "
        "and nearly the same second moments, and the sketches are trained."
    )
    removal = "kernels become sketches with fewer filters"
    citation = (
        'M. Lin, R. Ji, S. Li, Q. Ye, Y. Tian, J. Liu and Q. Tian, "Filter Sketch '
        'for Network Pruning", 2020'
    )
    url = "https://arxiv.org/abs/2001.08514"
    when = (
        "You can train for long at a full learning rate, and want small layers to "
        "start from."
    )

    @property
    def defaults(self) -> dict[str, Any]:
        return {
            "criterion": "l2",
            "allocation": "uniform",
            "schedule": schedules.OneShot(0),
            "sketch": recovery.Sketch(),
        }

    def actions(self) -> list[keras.callbacks.Callback]:
        parts = dict(self.parts)
        repairs = in_order(parts.pop("sketch"), self.recover)
        return [PruneCallback(**parts, **{**self.task, "recover": repairs})]
