"""Hierarchical group sparse regularization and loss-increase selection."""

from __future__ import annotations

from typing import Any

from kprune import allocation
from kprune import criteria
from kprune import regularizers
from kprune import schedules
from kprune.recipes._hard import PenalisedRecipe
from kprune.recipes._timing import removal_epoch
from kprune.recipes.base import register


@register("hgs")
class HGS(PenalisedRecipe):
    """Shrink groups of kernels with a penalty, then remove filters by their loss.

    Args:
        reduce: See `kprune.recipe`.
        data: Training samples `(x, y)`; the loss is measured on 1,000 of them.
        epochs: See `kprune.recipe`. The first third trains with the penalty.
        **parts: `regularizer`, a `keras.regularizers.Regularizer`;
            `shrinkage` and `layers`, see `kprune.callbacks.RegularizeCallback`;
            arguments of `kprune.callbacks.PruneCallback`: `criterion`,
            `allocation`, `schedule`. The penalty ends when pruning begins.
    """

    summary = (
        "Training with a penalty on groups of kernels makes filters unnecessary. "
        "The filters whose removal raises the loss least are removed, measured one by "
        "one on training samples, and the rest is fine-tuned without the penalty."
    )
    removal = "the filters that raise the loss least are removed"
    citation = (
        'K. Mitsuno and T. Kurita, "Filter Pruning using Hierarchical Group Sparse '
        'Regularization for Deep Convolutional Neural Networks", 2020'
    )
    url = "https://arxiv.org/abs/2011.02389"
    when = "Like `msvfp`, but filter by filter. The penalty needs a long run to matter."

    @property
    def defaults(self) -> dict[str, Any]:
        return {
            # The published 1e-3 is for training from random weights.
            "regularizer": regularizers.HierarchicalGroupSparsity(
                strength=1e-5
            ),
            "shrinkage": 0.1,
            "layers": None,
            "criterion": criteria.LossIncrease(per_mac="macs" in self.reduce),
            "allocation": allocation.Global("none"),
            "schedule": schedules.OneShot(removal_epoch(self.epochs)),
        }

    def penalty(self, parts: dict[str, Any]) -> dict[str, Any]:
        shrinkage = parts.pop("shrinkage")
        strength = getattr(self.parts["regularizer"], "strength", None)
        return {"shrinkage": None if strength is None else shrinkage}
