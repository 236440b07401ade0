"""Skip channels depending on the sample."""

from __future__ import annotations

from typing import Any

import keras

from kprune import schedules
from kprune.callbacks import DynamicGateCallback
from kprune.masking import add_dynamic_gates
from kprune.masking import gates
from kprune.recipes._page import during
from kprune.recipes._timing import removal_epoch
from kprune.recipes.base import Recipe
from kprune.recipes.base import register


@register("manidp")
class ManiDP(Recipe):
    """Let each sample use only the channels it needs. No filter is removed.

    Args:
        reduce: See `kprune.recipe`. The mean saving over samples.
        data: See `kprune.recipe`.
        epochs: See `kprune.recipe`. Thresholds rise in the first third.
        recover: Not supported: no filter is removed, so no layer needs repair.
        **parts: `reduction` for `kprune.masking.add_dynamic_gates`, and
            arguments of `kprune.callbacks.DynamicGateCallback`: `schedule`,
            `allocation`, `sparsity`, `similarity`.
    """

    summary = (
        "A small branch predicts for each sample which channels matter, and those "
        "below a threshold are skipped. Training makes easy samples use fewer "
        "channels, and similar samples use the same ones. No filter is removed: the "
        "saving depends on the sample."
    )
    citation = (
        'Y. Tang et al., "Manifold Regularized Dynamic Network '
        'Pruning", CVPR 2021'
    )
    url = "https://arxiv.org/abs/2103.05861"
    when = (
        "Your runtime can skip channels sample by sample, and some samples are "
        "harder than others."
    )
    learns = ("gates",)
    saves = "Skips, on average over samples,"

    @property
    def defaults(self) -> dict[str, Any]:
        return {
            "reduction": 2,
            "schedule": schedules.Linear(end=removal_epoch(self.epochs)),
            "allocation": "uniform",
            "sparsity": 5e-3,
            "similarity": 1.0,
        }

    def start(self, masked: keras.Model) -> None:
        if not gates(masked):
            add_dynamic_gates(masked, self.parts["reduction"])

    def actions(self) -> list[keras.callbacks.Callback]:
        if self.recover is not None:
            raise ValueError(
                "Recipe 'manidp' removes no filter, so there is nothing to recover "
                "from. Leave recover= out."
            )
        parts = dict(self.parts)
        parts.pop("reduction")
        return [DynamicGateCallback(**parts, **self.task)]

    def phases(self) -> list[tuple[str, str]]:
        end = self.rounds[-1]
        return [
            (during(0, end), "training while thresholds rise"),
            (during(end, self.epochs), "fine-tuning of gates and model"),
        ]
