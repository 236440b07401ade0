"""The work of `kprune export`, after all checks and the import of Keras."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kprune
from kprune.commands import advice
from kprune.commands.advice import Advice
from kprune.commands.files import load_model
from kprune.commands.line import CommandLine
from kprune.commands.outcome import Line
from kprune.commands.pruning import make_scorer
from kprune.commands.samples import Data
from kprune.export.evidence import CALIBRATED
from kprune.export.report import ExportReport
from kprune.masking import is_masked
from kprune.report import units
from kprune.report.progress import progress
from kprune.report.progress import step

_RUN = (".tflite", ".onnx")


class Exporting:
    """Exports one model to a file, and compares their scores.

    Args:
        model: File of the model.
        data: Samples to train on and to measure accuracy on.
        typical: Samples of `--calibration`.
        command: The current command.
    """

    def __init__(
        self, model: Path, data: Data, typical: Data, command: CommandLine
    ) -> None:
        self._bars = progress()
        self._command = command
        with self._bars as bars, step(bars, "loading"):
            loaded = load_model(model)
            self.model = loaded
            self.samples = data.samples(loaded)
            checked = data.checked(loaded, self.samples)
            self.calibration = typical.samples(loaded)
        self._checked = checked
        self.scorer, self.warnings = make_scorer(
            checked, loaded, data.checked_by
        )
        self.report: ExportReport | None = None

    @property
    def size(self) -> int | None:
        """Number of samples to score on; None without samples."""
        return None if self.scorer is None else self.scorer.samples.size

    def write(
        self, out: Path, quantize: str | None, options: dict[str, Any]
    ) -> ExportReport:
        """Write the file and verify it. See `kprune.export`."""
        samples, checked = self.samples, self._checked
        trains = quantize == "qat" or "clusters" in options
        # Samples to train on calibrate too.
        typical = self.calibration or (None if trains else samples)
        # A file cannot be judged by the samples that made it.
        apart = checked is not typical and not (trains and checked is samples)
        if checked is not None and apart and (trains or quantize in CALIBRATED):
            options = {**options, "validation": checked.x}
        if trains and samples is not None:
            options = {**options, "data": (samples.x, samples.y)}
        with self._bars as bars, step(bars, f"writing {out.name}"):
            self.report = kprune.export(
                self.model,
                out,
                quantize=quantize,
                calibration=None if typical is None else typical.x,
                **options,
            )
        return self.report

    def lines(self, out: Path, original: Path | None = None) -> list[Line]:
        """Return the scores of the model and the file; empty without samples.

        Args:
            out: The file that was written.
            original: A file of the unpruned model, or None.
        """
        if self.scorer is None or self.report is None:
            return []
        with self._bars as bars, step(bars, "measuring"):
            model = self.model
            before = self.scorer.model(model)
            compact = kprune.rebuild(model) if is_masked(model) else model
            after = self.scorer.file(compact, out)
            lines = [
                Line.of(model.name, model, before),
                Line(out.name, file=self.report.size, score=after),
            ]
            if original is not None and original.suffix in _RUN:
                score = self.scorer.outputs(self.scorer.run(original), compact)
                size = self.report.size_before
                lines.insert(0, Line(original.name, file=size, score=score))
        self.warnings += advice.about_original(
            self.scorer, before, self._command
        )
        if (
            before.accuracy is not None
            and after.accuracy is not None
            and before.accuracy - after.accuracy > advice.LOSS
        ):
            self.warnings.append(
                Advice(
                    f"{out.name} is right for {units.percent(after.accuracy)}, the "
                    f"model for {units.percent(before.accuracy)}. Calibrate with more "
                    "typical inputs, train with --quantize qat, or use dynamic or "
                    "float16."
                )
            )
        return lines
