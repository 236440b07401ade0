"""Filter similarity with one global threshold, soft."""

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
    """Filters that resemble others are set to 0 each epoch, and may return.

    Where a BatchNormalization follows, its scale is what is set to 0.

    Filters return only through a BatchNormalization whose offset is above 0
    (see `kprune.callbacks.SoftPruneCallback`): give it a trained model.

    Args:
        reduce: See `kprune.recipe`.
        data: See `kprune.recipe`. Other criteria may need it.
        epochs: See `kprune.recipe`. The first third chooses afresh.
        **parts: Arguments of `kprune.callbacks.SoftPruneCallback`:
            `criterion`, `allocation`, `schedule`, `target`, `scale_slots`.
    """

    summary = (
        "Filters that resemble others are set to 0 before each epoch, train on, and "
        "may return; the last choice is final. One threshold over all layers, found "
        "from the target alone."
    )
    citation = "Wu, Song and Zeng, Frontiers in Neurorobotics, 2023"
    url = "https://doi.org/10.3389/fnbot.2023.1132679"
    when = (
        "As `similarity`, with many epochs and batch normalisation: the "
        "choice is revised in each."
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
            (before([last]), "those that are it then go"),
            *tuning(last, self.epochs),
        ]
