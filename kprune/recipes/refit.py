"""The default of kprune with samples, followed by training."""

from __future__ import annotations

from typing import Any

import keras

from kprune import schedules
from kprune.callbacks import PruneCallback
from kprune.pruning import WITH_DATA
from kprune.recipes._hard import HardRecipe
from kprune.recipes.base import register
from kprune.recovery.base import in_order


@register("refit")
class Refit(HardRecipe):
    """Remove the filters that the others can replace, refit the layers, and train.

    Args:
        reduce: See `kprune.recipe`.
        data: Samples without labels. See `kprune.recipe`.
        epochs: See `kprune.recipe`. All of them fine-tune.
        recover: Further repair after the part `repair`: `"mimic"`, for example.
        **parts: `repair`, how to repair the remaining layers (see `recover` of
            `kprune.prune`; `None` for no repair), and arguments of
            `kprune.callbacks.PruneCallback`: `criterion`, `allocation`,
            `schedule`.
    """

    summary = (
        "Filters go whose outputs the remaining ones can replace, and most where the "
        "model's outputs change least. Each layer that read them is refitted by least "
        "squares. No labels are needed until training starts."
    )
    removal = "filters are removed and layers are refitted"
    citation = (
        "The default of kprune with samples, after J. Luo, J. Wu and W. Lin, "
        '"ThiNet: A Filter Level Pruning Method for Deep Neural Network '
        'Compression", ICCV 2017'
    )
    url = "https://arxiv.org/abs/1707.06342"
    when = (
        "You have about 1,000 samples, and will train afterwards. Start here."
    )

    @property
    def defaults(self) -> dict[str, Any]:
        return {
            "criterion": WITH_DATA.criterion,
            "allocation": WITH_DATA.allocation,
            "schedule": schedules.OneShot(0),
            "repair": WITH_DATA.recover,
        }

    def actions(self) -> list[keras.callbacks.Callback]:
        parts = dict(self.parts)
        repairs = in_order(parts.pop("repair"), self.recover)
        return [PruneCallback(**parts, **{**self.task, "recover": repairs})]
