"""Hierarchical group sparse regularization and loss-increase selection."""

from __future__ import annotations

from typing import Any

import keras

from kprune import allocation
from kprune import criteria
from kprune import regularizers
from kprune import schedules
from kprune.callbacks import PruneCallback
from kprune.callbacks import RegularizeCallback
from kprune.recipes._page import before
from kprune.recipes._page import during
from kprune.recipes._page import tuning
from kprune.recipes.base import Recipe
from kprune.recipes.base import register
from kprune.recipes.base import removal_epoch


@register("hgs")
class HGS(Recipe):
    """A penalty makes groups of kernels small; then measured filters go.

    Args:
        reduce: See `kprune.recipe`.
        data: Training samples `(x, y)`; the loss is measured on 1,000 of them.
        epochs: See `kprune.recipe`. A third has the penalty.
        **parts: `regularizer`, a `keras.regularizers.Regularizer`, and
            `sum_of_rates`, see `kprune.callbacks.RegularizeCallback`;
            arguments of `kprune.callbacks.PruneCallback`: `criterion`,
            `allocation`, `schedule`. The penalty ends when pruning begins.
    """

    summary = (
        "Training with a penalty on groups of kernels makes filters unnecessary. "
        "Those without which the loss rises least go, measured one by one on "
        "training samples, and the rest is fine-tuned without the penalty."
    )
    citation = (
        'K. Mitsuno and T. Kurita, "Filter Pruning using Hierarchical Group Sparse '
        'Regularization for Deep Convolutional Neural Networks", 2020'
    )
    url = "https://arxiv.org/abs/2011.02389"

    @property
    def defaults(self) -> dict[str, Any]:
        return {
            # The published 1e-3 is for training from random weights.
            "regularizer": regularizers.HierarchicalGroupSparsity(
                strength=1e-5
            ),
            "sum_of_rates": 100.0,
            "criterion": criteria.LossIncrease(),
            "allocation": allocation.Global("none"),
            "schedule": schedules.OneShot(removal_epoch(self.epochs)),
        }

    def start(self, masked: keras.Model) -> None:
        regularizers.detach(masked)
        regularizers.attach(masked, self.parts["regularizer"])

    def actions(self) -> list[keras.callbacks.Callback]:
        parts = dict(self.parts)
        regularizer = parts.pop("regularizer")
        rates = parts.pop("sum_of_rates")
        if getattr(regularizer, "strength", None) is None:
            rates = None
        return [
            RegularizeCallback(
                regularizer, until=self.rounds[0], sum_of_rates=rates
            ),
            PruneCallback(**parts, **self.task),
        ]

    def phases(self) -> list[tuple[str, str]]:
        rounds = self.rounds
        return [
            (during(0, rounds[0]), "training with the penalty"),
            (before(rounds), "the filters that cost least loss go, for good"),
            *tuning(rounds[-1], self.epochs),
        ]
