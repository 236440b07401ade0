"""Remove similar filters by one global threshold, for good."""

from __future__ import annotations

from typing import Any

from kprune import criteria
from kprune import schedules
from kprune.recipes._hard import HardRecipe
from kprune.recipes._timing import removal_epoch
from kprune.recipes.base import register

ROUNDS = 10
"""Maximum number of rounds, so that there is enough training between them."""


@register("similarity")
class Similarity(HardRecipe):
    """Remove filters that resemble others, a few at a time.

    Args:
        reduce: See `kprune.recipe`.
        data: See `kprune.recipe`. Other criteria may need it.
        epochs: See `kprune.recipe`. Filters are removed in the first third.
        **parts: Arguments of `kprune.callbacks.PruneCallback`: `criterion`,
            `allocation`, `schedule`.
    """

    summary = (
        "Among filters that resemble each other, all but one are superfluous. One "
        "threshold for all layers, derived from the target alone, decides which are "
        "removed; no layer has a rate of its own."
    )
    removal = "the filters most similar to others are removed"
    citation = "Wu, Song and Zeng, Frontiers in Neurorobotics, 2023"
    url = "https://doi.org/10.3389/fnbot.2023.1132679"
    when = (
        "You have no samples to choose filters by, and layers look redundant."
    )

    @property
    def defaults(self) -> dict[str, Any]:
        end = removal_epoch(self.epochs)
        return {
            "criterion": criteria.Folded("similarity"),
            "allocation": "similarity",
            # Rounds are at 0, `every`, ... and at `end`.
            "schedule": schedules.Linear(
                end=end, every=max(1, -(-end // (ROUNDS - 1)))
            ),
        }
