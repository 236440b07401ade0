"""Cross-filter compression: binary filters with shared scales."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from kprune import schedules
from kprune.allocation._manual import Manual
from kprune.binary import BinaryFilters
from kprune.callbacks import BinarizeCallback
from kprune.callbacks import PruneCallback
from kprune.recipes._hard import HardRecipe
from kprune.recipes._page import before
from kprune.recipes._page import during
from kprune.recipes.base import register


@register("cross-filter")
class CrossFilter(HardRecipe):
    """Make filters binary, and let adjacent filters share a scale.

    Args:
        reduce: See `kprune.recipe`. By default no filter is removed; otherwise
            filters are removed first.
        data: See `kprune.recipe`. Other criteria may need it.
        epochs: See `kprune.recipe`. All of them train binary filters.
        **parts: `form`, a `kprune.binary.BinaryFilters`, and arguments of
            `kprune.callbacks.PruneCallback` for the filters removed first:
            `criterion`, `allocation`, `schedule`.
    """

    summary = (
        "All weights of a filter get the same magnitude, which the filter shares with "
        "its neighbours, so that only the sign of each weight is stored. The forward "
        "pass uses the binary filters, and gradients pass straight through to the "
        "weights behind them."
    )
    removal = "the shortest filters are removed"
    citation = (
        'Y. Lyu, L. Zhu and X. Liu, "Cross-filter compression for CNN inference '
        'acceleration", 2020'
    )
    url = "https://arxiv.org/abs/2005.09034"
    when = "The file is too large but its speed is fine, and you can train for long."
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
            if self.recover is not None:
                raise ValueError(
                    "Recipe 'cross-filter' removes no filter without a target, so "
                    "that there is nothing to recover from. Pass reduce=, or leave "
                    "recover= out."
                )
            return [binary]
        return [PruneCallback(**parts, **self.task), binary]

    def phases(self) -> list[tuple[str, str]]:
        training = (during(0, self.epochs), "training with binary filters")
        if not self._prunes:
            return [training]
        return [(before(self.rounds), self.removal), training]

    @property
    def _prunes(self) -> bool:
        by_hand = isinstance(self.parts["allocation"], Mapping | Manual)
        return bool(self.reduce) or by_hand
