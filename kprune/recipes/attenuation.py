"""Filter attenuation."""

from __future__ import annotations

from typing import Any

import keras

from kprune import criteria
from kprune import factors
from kprune import schedules
from kprune.callbacks import AttenuateCallback
from kprune.recipes._page import before
from kprune.recipes._page import tuning
from kprune.recipes._timing import removal_epoch
from kprune.recipes.base import Recipe
from kprune.recipes.base import register


@register("attenuation")
class Attenuation(Recipe):
    """Scale weak filters down step by step, then remove them.

    Args:
        reduce: See `kprune.recipe`.
        data: See `kprune.recipe`. Criteria that run the model need it.
        epochs: See `kprune.recipe`. Filters are attenuated in 100 of 140 epochs,
            or in a third of them in runs of fewer than 60.
        **parts: Arguments of `kprune.callbacks.AttenuateCallback`:
            `criterion`, `schedule`, `allocation`, `factor`, `target`.
    """

    summary = (
        "Weak filters are scaled down a little in each epoch instead of being cut "
        "off. A filter that becomes strong again returns to its full scale."
    )
    citation = (
        "M. Mousa-Pasandi, M. Hajabdollahi, N. Karimi, S. Samavi and S. Shirani, "
        '"Convolutional Neural Network Pruning Using Filter Attenuation", ICIP 2020'
    )
    url = "https://arxiv.org/abs/2002.03299"
    when = (
        "You can train for many epochs, and the model has batch normalisation: weak "
        "filters fade, and those that become strong again stay."
    )

    @property
    def defaults(self) -> dict[str, Any]:
        end = removal_epoch(self.epochs, 100 / 140)
        return {
            "criterion": criteria.Folded("l1"),
            "schedule": schedules.Constant(end=end),
            "allocation": "global",
            "factor": factors.Linear(),
            "target": "bn",
        }

    def actions(self) -> list[keras.callbacks.Callback]:
        return [AttenuateCallback(**self.parts, **self.task)]

    def phases(self) -> list[tuple[str, str]]:
        *rounds, last = self.rounds
        fading = factors.get(self.parts["factor"]).tail
        steps = rounds[: len(rounds) + 1 - fading] if fading else rounds
        found = []
        if steps:
            found.append((before(steps), "the weakest filters are scaled down"))
        if rounds[len(steps) :]:
            found.append(
                (before(rounds[len(steps) :]), "a fixed set of them fades out")
            )
        removal = before([last]), "they are removed"
        return [*found, removal, *tuning(last, self.epochs)]
