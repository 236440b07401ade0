"""Cross-filter compression: binary filters with shared scales."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from kprune import schedules
from kprune.binary import BinaryFilters
from kprune.callbacks import BinarizeCallback
from kprune.callbacks import PruneCallback
from kprune.recipes._hard import HardRecipe
from kprune.recipes._page import before
from kprune.recipes._page import during
from kprune.recipes.base import register


@register("cross-filter")
class CrossFilter(HardRecipe):
    """Filters become binary, and adjacent ones share a scale.

    Args:
        reduce: See `kprune.recipe`. By default all filters stay; otherwise
            some go first.
        data: See `kprune.recipe`. Other criteria may need it.
        epochs: See `kprune.recipe`. All of them train binary filters.
        **parts: `form`, a `kprune.binary.BinaryFilters`, and arguments of
            `kprune.callbacks.PruneCallback` for what goes first: `criterion`,
            `allocation`, `schedule`.
    """

    summary = (
        "All weights of a filter have one magnitude, which it shares with the "
        "filters beside it; what is left of a weight is its sign. Training sees "
        "binary filters, and gradients pass straight through to the weights "
        "behind them."
    )
    removal = "the shortest filters go"
    citation = (
        'Y. Lyu, L. Zhu and X. Liu, "Cross-filter compression for CNN inference '
        'acceleration", 2020'
    )
    url = "https://arxiv.org/abs/2005.09034"
    when = (
        "The file is too large, not the time that it takes to run; with a long "
        "training run."
    )
    default_reduce: Mapping[str, float] = {}
    untargeted = "Keeps all filters"

    @property
    def defaults(self) -> dict[str, Any]:
        return {
            "criterion": "l1",
            "allocation": "global",
            "schedule": schedules.OneShot(0),
            "form": BinaryFilters(),
        }

    def actions(self) -> list[keras.callbacks.Callback]:
        parts = dict(self.parts)
        binary = BinarizeCallback(parts.pop("form"))
        if not self._prunes:
            return [binary]
        return [PruneCallback(**parts, **self.task), binary]

    def phases(self) -> list[tuple[str, str]]:
        training = (during(0, self.epochs), "training through binary filters")
        if not self._prunes:
            return [training]
        return [(before(self.rounds), self.removal), training]

    @property
    def _prunes(self) -> bool:
        by_hand = isinstance(self.parts["allocation"], Mapping)
        return bool(self.reduce) or by_hand
