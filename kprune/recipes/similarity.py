"""Filter similarity with one global threshold, hard."""

from __future__ import annotations

from typing import Any

from kprune import criteria
from kprune import schedules
from kprune.recipes._hard import HardRecipe
from kprune.recipes._timing import removal_epoch
from kprune.recipes.base import register

ROUNDS = 10
"""Rounds at most, so that training between them is worth its name."""


@register("similarity")
class Similarity(HardRecipe):
    """Filters that resemble others are removed, a few at a time.

    Args:
        reduce: See `kprune.recipe`.
        data: See `kprune.recipe`. Other criteria may need it.
        epochs: See `kprune.recipe`. The first third removes.
        **parts: Arguments of `kprune.callbacks.PruneCallback`: `criterion`,
            `allocation`, `schedule`.
    """

    summary = (
        "Of filters that resemble each other all but one are superfluous. One "
        "threshold over all layers, found from the target alone, says which go; no "
        "layer has a rate of its own."
    )
    removal = "the filters most similar to others go, for good"
    citation = "Wu, Song and Zeng, Frontiers in Neurorobotics, 2023"
    url = "https://doi.org/10.3389/fnbot.2023.1132679"
    when = (
        "No samples to choose by, and layers that look redundant: what "
        "resembles others goes."
    )

    @property
    def defaults(self) -> dict[str, Any]:
        end = removal_epoch(self.epochs)
        return {
            "criterion": criteria.Folded("similarity"),
            "allocation": "similarity",
            "schedule": schedules.Linear(end=end, every=1 + end // ROUNDS),
        }
