"""Filters sampled by learned gates, guided by a teacher."""

from __future__ import annotations

from typing import Any

import keras

from kprune import allocation
from kprune import schedules
from kprune.callbacks import GateCallback
from kprune.graph import Group
from kprune.graph import trace
from kprune.masking import add_gates
from kprune.masking import gates
from kprune.masking.gating import gated_readers
from kprune.recipes._page import before
from kprune.recipes._page import during
from kprune.recipes._page import tuning
from kprune.recipes._timing import removal_epoch
from kprune.recipes.base import Recipe
from kprune.recipes.base import register


@register("kdfs")
class KDFS(Recipe):
    """Train gates with the weights, then remove the channels that open least.

    Args:
        reduce: See `kprune.recipe`. `"macs"` and `"params"` are supported.
        data: See `kprune.recipe`.
        epochs: See `kprune.recipe`. Gates are trained in 350 of 400 epochs, or in
            a third of them in runs of fewer than 60.
        **parts: `start`, the initial logits of the gates, and arguments of
            `kprune.callbacks.GateCallback`: `schedule`, `allocation`,
            `penalty`, `distillation`, `modelling`, `softness`, `temperature`,
            `rate`, `teacher`.
    """

    summary = (
        "Each channel has a gate, which is sampled in every step and trained with "
        "the weights, for a low loss, for the budget, and for outputs and features "
        "like the original's. The channels that open least are removed, and the rest "
        "is fine-tuned."
    )
    citation = (
        'S. Lin et al., "Filter Pruning for Efficient CNNs via Knowledge-driven '
        'Differential Filter Sampler", 2023'
    )
    url = "https://arxiv.org/abs/2307.00198"
    when = (
        "You have labels, can train for long, and want training to find the width "
        "of each layer, guided by the original."
    )
    learns = ("gates",)

    @property
    def defaults(self) -> dict[str, Any]:
        return {
            "start": 2.0,
            "schedule": schedules.OneShot(
                removal_epoch(self.epochs, 350 / 400)
            ),
            "allocation": allocation.Global("none"),
            "penalty": 100.0,
            "distillation": 0.05,
            "modelling": 1000.0,
            "softness": 3.0,
            "temperature": (1.0, 0.1),
            "rate": None,
            "teacher": None,
        }

    def start(self, masked: keras.Model) -> None:
        if gates(masked):
            return
        graph = trace(masked)
        stages = [
            graph[name]
            for name, readers in gated_readers(masked, graph).items()
            if any(_shown(graph[name], reader) for _, reader in readers)
        ]
        streams = [
            group
            for group in stages
            if len({id(m.layer) for m in group.producers}) > 1
        ]
        names = [group.name for group in streams or stages]
        add_gates(masked, self.parts["start"], decoders=names, graph=graph)

    def actions(self) -> list[keras.callbacks.Callback]:
        parts = dict(self.parts)
        parts.pop("start")
        return [GateCallback(**parts, **self.task)]

    def phases(self) -> list[tuple[str, str]]:
        rounds = self.rounds
        return [
            (during(0, rounds[-1]), "training with sampled gates"),
            (before(rounds), "the channels that open least are removed"),
            *tuning(rounds[-1], self.epochs),
        ]


def _shown(group: Group, reader: dict[str, Any]) -> bool:
    """Return whether a reader reads exactly a group's channels, with positions."""
    return reader["rank"] > 2 and reader["index"] == list(range(group.size))
