"""Asymptotic soft cluster pruning."""

from __future__ import annotations

from typing import Any

import keras

from kprune import schedules
from kprune.callbacks import ClusterCallback
from kprune.recipes._page import before
from kprune.recipes._page import tuning
from kprune.recipes._timing import removal_epoch
from kprune.recipes.base import Recipe
from kprune.recipes.base import register


@register("ascp")
class ASCP(Recipe):
    """Pull filters together in fewer and fewer clusters, then merge each cluster.

    Args:
        reduce: See `kprune.recipe`.
        data: See `kprune.recipe`. Other criteria may need it.
        epochs: See `kprune.recipe`. In the first third, filters are clustered
            again before each epoch.
        **parts: Arguments of `kprune.callbacks.ClusterCallback`: `criterion`,
            `allocation`, `schedule`, `pull`.
    """

    summary = (
        "Before each epoch the filters of a layer are grouped into fewer and fewer "
        "clusters, set to the mean of their cluster, and trained further. In the end "
        "each cluster is merged into one filter, which leaves the outputs unchanged."
    )
    citation = (
        'T. Niu, Y. Teng and P. Zou, "Asymptotic Soft Cluster Pruning for Deep '
        'Neural Networks", 2022'
    )
    url = "https://arxiv.org/abs/2206.08186"
    when = (
        "You can train for many epochs and have no samples to choose filters by: "
        "filters become equal instead of being cut off."
    )

    @property
    def defaults(self) -> dict[str, Any]:
        return {
            "criterion": "l2",
            "allocation": "uniform",
            "schedule": schedules.Asymptotic(end=removal_epoch(self.epochs)),
            "pull": 1.0,
        }

    def actions(self) -> list[keras.callbacks.Callback]:
        return [ClusterCallback(**self.parts, **self.task)]

    def phases(self) -> list[tuple[str, str]]:
        *rounds, last = self.rounds
        choice = "filters are set to the mean of their cluster, and train on"
        return [
            *([(before(rounds), choice)] if rounds else []),
            (before([last]), "the filters of a cluster are merged into one"),
            *tuning(last, self.epochs),
        ]
