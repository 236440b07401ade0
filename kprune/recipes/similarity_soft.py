"""Set similar filters to 0 by one global threshold, and let them return."""

from __future__ import annotations

from typing import Any

import keras

from kprune import criteria
from kprune import schedules
from kprune.callbacks import SoftPruneCallback
from kprune.recipes._page import before
from kprune.recipes._page import tuning
from kprune.recipes._timing import removal_epoch
from kprune.recipes.base import Recipe
from kprune.recipes.base import register


@register("similarity-soft")
class SimilaritySoft(Recipe):
    """Set filters that resemble others to 0 before each epoch. They may return.

    If a BatchNormalization follows, its scale is set to 0 instead.

    Filters return only through a BatchNormalization whose offset is above 0, so
    start from a trained model. See `kprune.callbacks.SoftPruneCallback`.

    Args:
        reduce: See `kprune.recipe`.
        data: See `kprune.recipe`. Other criteria may need it.
        epochs: See `kprune.recipe`. In the first third, filters are chosen again
            before each epoch.
        **parts: Arguments of `kprune.callbacks.SoftPruneCallback`:
            `criterion`, `allocation`, `schedule`, `target`, `scale_slots`.
    """

    summary = (
        "Filters that resemble others are set to 0 before each epoch, train on, and "
        "may return; the last choice is final. One threshold for all layers, derived "
        "from the target alone, decides."
    )
    citation = "Wu, Song and Zeng, Frontiers in Neurorobotics, 2023"
    url = "https://doi.org/10.3389/fnbot.2023.1132679"
    when = (
        "Like `similarity`, but you can train for many epochs and the model has batch "
        "normalisation: the choice is revised in each epoch."
    )

    @property
    def defaults(self) -> dict[str, Any]:
        return {
            "criterion": criteria.Folded("similarity"),
            "allocation": "similarity",
            "schedule": schedules.Constant(end=removal_epoch(self.epochs)),
            "target": "scale",
            "scale_slots": False,
        }

    def actions(self) -> list[keras.callbacks.Callback]:
        return [SoftPruneCallback(**self.parts, **self.task)]

    def phases(self) -> list[tuple[str, str]]:
        *rounds, last = self.rounds
        choice = "the filters most similar to others are set to 0, and train on"
        return [
            *([(before(rounds), choice)] if rounds else []),
            (before([last]), "the filters most similar to others are removed"),
            *tuning(last, self.epochs),
        ]
