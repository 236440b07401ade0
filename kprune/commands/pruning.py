"""The work of `kprune prune`, after all checks and the import of Keras."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

import kprune
from kprune import allocation as allocations
from kprune.__about__ import __version__
from kprune.commands import advice
from kprune.commands.advice import Advice
from kprune.commands.files import load_model
from kprune.commands.line import CommandLine
from kprune.commands.outcome import Line
from kprune.commands.outcome import lines_json
from kprune.commands.resume import Resumable
from kprune.commands.samples import Data
from kprune.commands.samples import note
from kprune.commands.scoring import Score
from kprune.commands.scoring import Scorer
from kprune.commands.training import train
from kprune.data.expectations import checked_as
from kprune.data.expectations import doubts
from kprune.data.reading import Samples
from kprune.export.report import ExportReport
from kprune.latency.allocation.ram import device_aware
from kprune.masking import is_masked
from kprune.pruning import choose
from kprune.report import units
from kprune.report.progress import progress
from kprune.report.progress import step
from kprune.runs import annotate
from kprune.runs import folder_of
from kprune.runs.record import COMPACT
from kprune.runs.record import ORIGINAL
from kprune.session import Session


@dataclasses.dataclass(frozen=True)
class Result:
    """Result of a command.

    Args:
        command: The command line.
        lines: Models and files, the original first.
        samples: Samples that models were scored on, or None.
        labelled: Whether these have targets.
        warnings: Warnings with suggestions.
        facts: Further facts, for JSON.
    """

    command: str
    lines: list[Line]
    samples: Samples | None = None
    labelled: bool = False
    warnings: list[Advice] = dataclasses.field(default_factory=list)
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, strings, lists and dictionaries, for JSON."""
        data: dict[str, Any] | None = None
        if self.samples is not None:
            data = {
                "name": self.samples.name,
                "samples": self.samples.size,
                "labelled": self.labelled,
            }
        return {
            "kprune": __version__,
            "command": self.command,
            **lines_json(self.lines, None if data is None else data["samples"]),
            "data": data,
            "warnings": [each.to_dict() for each in self.warnings],
            **self.facts,
        }


def make_scorer(
    samples: Samples | None, model: keras.Model, option: str
) -> tuple[Scorer | None, list[Advice]]:
    """Return a scorer for samples, which drops labels that the loss cannot take.

    Args:
        samples: Samples, or None.
        model: The original model.
        option: The option they come from, for messages.

    Returns:
        The scorer, or None without samples, and warnings.

    Raises:
        ValueError: The model cannot take the samples.
    """
    if samples is None:
        return None, []
    if samples.y is not None:
        try:
            return Scorer(samples, model, option), []
        except ValueError as error:
            unlabelled = dataclasses.replace(samples, y=None)
            scorer = Scorer(unlabelled, model, option)
            text = f"Accuracy is not measured. {error}"
            return scorer, [Advice(text)]
    return Scorer(samples, model, option), []


PRUNED = "pruned"
"""Name of the pruned model where the written file has a line of its own."""

_SAMPLES = "the samples in `--data`"

DEVICE = {
    "latency": ("predicted latency", units.milliseconds),
    "ram": ("predicted RAM", units.size),
}
"""Targets that are costs on a device -> title and format of their columns."""


def device_costs(
    original: keras.Model,
    masked: keras.Model,
    allocation: Any,
    target: Mapping[str, float],
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the costs on a device of the original and of the pruned model.

    Args:
        original: The original model. Its weights decide, as those of removed filters
            are 0, which compilers compress.
        masked: The pruned model.
        allocation: The allocation that met the targets, or its name.
        target: The targets. Those that are not costs on a device are left out.
    """
    session = Session(
        original if is_masked(original) else kprune.wrap(original)
    )
    costs = device_aware(allocations.get(allocation), target).costs(session)
    alive = Session(masked).alive()
    kept = [int(alive[group.name].sum()) for group in session.graph.prunable]
    before, after = (
        {name: float(cost[name]) for name in target if name in DEVICE}
        for cost in (costs.full, costs.evaluate(kept))
    )
    return before, after


class Pruning:
    """Prunes the model in a file, and writes and scores the smaller one.

    Args:
        model: File of the model.
        out: File to write.
        data: The user's samples.
        command: The current command.
    """

    def __init__(
        self, model: Path, out: Path, data: Data, command: CommandLine
    ) -> None:
        self.out = out
        self.data = data
        self.command = command
        self.repaired = False
        self.trained = False
        self._resumable: Resumable | None = None
        self.predicted: tuple[dict[str, float], dict[str, float]] = ({}, {})
        self._bars = progress()
        with self._bars, step(self._bars, "loading"):
            self.original = load_model(model)
            self.samples = data.samples(self.original)
            checked = data.checked(self.original, self.samples)
        self._doubts: list[Advice] = []
        self.scorer, self.warnings = make_scorer(
            checked, self.original, data.checked_by
        )

    @property
    def written(self) -> str:
        """Name of the written file among the models, which it never shares."""
        # Only a folder has no suffix.
        taken = self.out.name in (ORIGINAL, COMPACT, PRUNED)
        return f"{self.out.name}/" if taken else self.out.name

    @functools.cached_property
    def before(self) -> Score | None:
        """Score of the original model; None without samples."""
        if self.scorer is None:
            return None
        return self.scorer.model(self.original)

    def prune(
        self,
        target: Mapping[str, float] | None,
        parts: Mapping[str, Any],
        method: str | None,
        epochs: int,
        learning_rate: float | None,
        resumable: Resumable | None,
    ) -> keras.Model:
        """Prune the model at once or while it trains; return the masked model."""
        self.trained = method is not None
        self._resumable = resumable
        with self._bars as bars:
            with step(bars, "measuring the original"):
                if self.scorer is not None and self.before is not None:
                    self._doubts = advice.about_original(
                        self.scorer, self.before, self.command
                    )
                    self.warnings += self._doubts
                if self.samples is not None and not self._doubts:
                    found = doubts(self.original, self.samples.x, _SAMPLES)
                    self.warnings += map(Advice, found)
            if method is None or resumable is None:
                with step(bars, "pruning"):
                    data = None if self.samples is None else self.samples.data
                    with checked_as(_SAMPLES):
                        masked = kprune.prune(
                            self.original, reduce=target, data=data, **parts
                        )
                # Let `kprune.pruning` tell which parts were used by default.
                chosen = choose(
                    Session(masked),
                    parts.get("criterion"),
                    parts.get("allocation"),
                    parts.get("recover"),
                )
                self.repaired = bool(chosen.recover)
                self._predict(masked, chosen.allocation, target or {})
                return masked
            if resumable.begun:
                note(f"continuing the run in {str(resumable.folder)!r}")
            pair = None
            if self.samples is not None:
                pair = (self.samples.x, self.samples.y)
            recipe = kprune.recipe(method, target, pair, epochs, **parts)
            masked = train(
                self.original, recipe, bars, resumable, learning_rate
            )
            chosen_by = recipe.parts.get("allocation", "global")
            self._predict(masked, chosen_by, recipe.reduce)
            return masked

    def _predict(
        self, masked: keras.Model, allocation: Any, target: Mapping[str, float]
    ) -> None:
        if DEVICE.keys() & target.keys():
            with step(self._bars, "predicting costs on the device"):
                self.predicted = device_costs(
                    self.original, masked, allocation, target
                )

    def _predictions(self) -> dict[str, Any]:
        """Return predicted costs for JSON: latency in milliseconds, RAM in bytes."""
        before, after = self.predicted
        return (
            {"predicted": {"before": before, "after": after}} if after else {}
        )

    def _record(
        self, masked: keras.Model, lines: list[Line], report: ExportReport
    ) -> None:
        """Add the measurements to the folder of the run, if there is one."""
        folder = folder_of(masked)
        if folder is None and self._resumable is not None:
            # A model that was trained before Ctrl-C or a failure.
            folder = self._resumable.record
        if folder is None or not folder.exists() or self.scorer is None:
            return
        size = self.scorer.samples.size
        rows: list[dict[str, Any]] = []
        names = (ORIGINAL, COMPACT, self.written)
        for name, line in zip(names, lines, strict=False):
            row = {**line.to_dict(), "name": name, "samples": size}
            if line.score.metrics or line.file is not None:
                rows.append(row)
        check = {
            "what": f"{self.written} against the compact model",
            "difference": report.max_rel,
            "agreement": report.top1,
            "samples": report.samples,
        }
        annotate(folder, rows, [check])

    def finish(self, masked: keras.Model) -> Result:
        """Rebuild, write and measure."""
        before = self.before
        after = on_file = None
        with self._bars as bars:
            with step(bars, "rebuilding"):
                compact = kprune.rebuild(masked)
            with step(bars, f"writing {self.out.name}"):
                real = None if self.samples is None else self.samples.x
                with checked_as(_SAMPLES):
                    report = kprune.export(compact, self.out, calibration=real)
                if self._resumable is not None:
                    self._resumable.remove()
            runs = self.out.suffix != ".keras"
            if self.scorer is not None:
                with step(bars, "measuring"):
                    after = self.scorer.model(compact)
                    if runs:
                        on_file = self.scorer.file(compact, self.out)
        name = PRUNED if runs else self.written
        first, last = (
            {
                DEVICE[name][0]: DEVICE[name][1](cost)
                for name, cost in costs.items()
            }
            for costs in self.predicted
        )
        lines = [
            Line.of(ORIGINAL, self.original, before, first),
            Line.of(name, compact, after, last),
        ]
        if runs:
            file = Line(
                self.written, file=report.size, score=on_file or Score()
            )
            lines.append(file)
        self._record(masked, lines, report)
        if self.scorer is None or before is None or after is None:
            note(
                "without --data or --validation nothing is known about accuracy, and "
                "filters are chosen by their weights alone"
            )
        else:
            # If the original fails on these samples, they say nothing about pruning.
            if not self._doubts:
                self.warnings += advice.about_result(
                    self.scorer, before, after, self.command, self.repaired
                )
            if self.trained and self.scorer.labelled and not self.data.apart:
                note(
                    "measured on the samples that it was trained on; pass others as "
                    "--validation"
                )
        labelled = self.scorer is not None and self.scorer.labelled
        return Result(
            str(self.command),
            lines,
            self.scorer.samples if self.scorer else None,
            labelled,
            self.warnings,
            {
                "wrote": str(self.out),
                "export": report.to_dict(),
                **self._predictions(),
            },
        )
