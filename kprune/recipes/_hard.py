"""Base classes of recipes that remove filters for good with `PruneCallback`."""

from __future__ import annotations

from typing import Any

import keras

from kprune import regularizers
from kprune import schedules
from kprune.callbacks import PruneCallback
from kprune.callbacks import RegularizeCallback
from kprune.recipes._page import before
from kprune.recipes._page import during
from kprune.recipes._page import tuning
from kprune.recipes._timing import removal_epoch
from kprune.recipes.base import Recipe


class HardRecipe(Recipe):
    """Remove filters in the rounds of the part `schedule`."""

    removal = ""
    """What happens in these rounds, for `print`."""

    def actions(self) -> list[keras.callbacks.Callback]:
        return [PruneCallback(**self.parts, **self.task)]

    def phases(self) -> list[tuple[str, str]]:
        rounds = self.rounds
        return [
            (before(rounds), self.removal),
            *tuning(rounds[-1], self.epochs),
        ]


class PenalisedRecipe(HardRecipe):
    """Add the penalty `regularizer` until the first filters are removed."""

    @property
    def until(self) -> int:
        """The first epoch, from 0, that removes filters."""
        first, epochs = self.rounds[0], self.epochs
        schedule = schedules.get(self.parts["schedule"]).toward(self.reduce)
        # Functions and own schedules count epochs in which they remove nothing, too.
        acting = (
            e for e in range(first, epochs) if schedule.fraction(e, epochs) > 0
        )
        return next(acting, max(first, epochs))

    def check_parts(self) -> None:
        if self.until < 1:
            raise ValueError(
                f"Recipe '{self.name}' trains with a penalty before it removes "
                "filters, so its `schedule` must begin at epoch 1 or later, for "
                f"example schedule=kprune.OneShot({removal_epoch(self.epochs)}). "
                f"Received: schedule={self.parts['schedule']!r}."
            )

    def start(self, masked: keras.Model) -> None:
        regularizers.detach(masked)
        regularizers.attach(
            masked, self.parts["regularizer"], self.parts.get("layers")
        )

    def actions(self) -> list[keras.callbacks.Callback]:
        parts = dict(self.parts)
        penalty = RegularizeCallback(
            parts.pop("regularizer"),
            until=self.until,
            layers=parts.pop("layers", None),
            **self.penalty(parts),
        )
        return [penalty, PruneCallback(**parts, **self.task)]

    def penalty(self, parts: dict[str, Any]) -> dict[str, Any]:
        """Move further arguments of `RegularizeCallback` out of `parts`."""
        return {}

    def phases(self) -> list[tuple[str, str]]:
        first = during(0, self.until), "training with the penalty"
        return [first, *super().phases()]
