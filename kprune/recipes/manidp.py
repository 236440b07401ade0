"""Channels that depend on the sample."""

from __future__ import annotations

from typing import Any

import keras

from kprune import schedules
from kprune.callbacks import DynamicGateCallback
from kprune.masking import add_dynamic_gates
from kprune.masking import gates
from kprune.recipes._page import during
from kprune.recipes.base import Recipe
from kprune.recipes.base import register


@register("manidp")
class ManiDP(Recipe):
    """Each sample takes the channels it needs; nothing is removed.

    Args:
        reduce: See `kprune.recipe`. What the mean sample is to save.
        data: See `kprune.recipe`.
        epochs: See `kprune.recipe`. Thresholds rise for two
            thirds of them.
        recover: There are no layers to repair.
        **parts: `reduction`, see `kprune.masking.add_dynamic_gates`, and
            arguments of `kprune.callbacks.DynamicGateCallback`: `schedule`,
            `allocation`, `sparsity`, `similarity`.
    """

    summary = (
        "A small branch predicts for each sample which channels matter, and those "
        "below a threshold are skipped. Easy samples are to need fewer, and samples "
        "that look alike the same. No filter is removed: what is saved depends on "
        "the sample."
    )
    citation = (
        'Y. Tang et al., "Manifold Regularized Dynamic Network '
        'Pruning", CVPR 2021'
    )
    url = "https://arxiv.org/abs/2103.05861"
    when = (
        "Kernels that skip channels sample by sample are at hand, and samples differ "
        "in how hard they are."
    )
    learns = ("gates",)
    saves = "Skips, for the mean sample,"

    @property
    def defaults(self) -> dict[str, Any]:
        return {
            "reduction": 2,
            "schedule": schedules.Linear(end=self._full),
            "allocation": "uniform",
            "sparsity": 5e-3,
            "similarity": 1.0,
        }

    @property
    def _full(self) -> int:
        """The epoch before which thresholds reach the target.

        Not a third, as in other recipes: when thresholds rise faster, the
        gates do not follow.
        """
        return max(1, 2 * self.epochs // 3)

    def start(self, masked: keras.Model) -> None:
        if not gates(masked):
            add_dynamic_gates(masked, self.parts["reduction"])

    def actions(self) -> list[keras.callbacks.Callback]:
        if self.recover is not None:
            raise ValueError(
                "Recipe 'manidp' removes no filter, so that there is nothing to "
                "recover from. Leave recover= out."
            )
        parts = dict(self.parts)
        parts.pop("reduction")
        return [DynamicGateCallback(**parts, **self.task)]

    def phases(self) -> list[tuple[str, str]]:
        end = self._full
        return [
            (during(0, end), "training while thresholds rise"),
            (during(end, self.epochs), "fine-tuning of gates and model"),
        ]
