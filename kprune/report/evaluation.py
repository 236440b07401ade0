"""Measure a model before and after pruning on the same test set."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import keras
import numpy as np
from rich.table import Table

import kprune
from kprune.export.compare import compare
from kprune.export.runtime import open_runtime
from kprune.report.measure import accuracy
from kprune.report.measure import predict
from kprune.report.measure import relative_difference
from kprune.report.rows import Row
from kprune.report.rows import rows_markdown
from kprune.report.rows import rows_table


class Evaluation:
    """Measures models and files on one test set, with one row for each.

    For classifiers with one input and one output.

    Args:
        x: Test inputs `(n, ...)`.
        y: Integer labels `(n,)`.
        folder: Folder for the files. It is created if it is missing.

    Example:

    ```python
    evaluation = Evaluation(x_test, y_test, "out")
    evaluation.add_model("original", model)
    evaluation.add_file("TFLite", compact, "model.tflite")
    evaluation.measure_latency()
    rich.print(evaluation.table())
    ```
    """

    def __init__(
        self, x: np.ndarray, y: np.ndarray, folder: str | os.PathLike[str]
    ) -> None:
        self.x = x
        self.y = y
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.rows: list[Row] = []
        self._last: tuple[keras.Model, np.ndarray] | None = None

    def __getitem__(self, name: str) -> Row:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(
            f"No row is named {name!r}; there are {[row.name for row in self.rows]}."
        )

    def add_model(
        self, name: str, model: keras.Model, file: str | None = None
    ) -> np.ndarray:
        """Add a row for a Keras model, and optionally write it to a file.

        Args:
            name: Name of the row.
            model: Plain or masked model. The costs of a masked model are those of
                its compact version.
            file: Name of the file to write in `folder`. The row has the size and
                latency of a `.tflite` or `.onnx` file. None for a masked model.

        Returns:
            The scores on the test inputs.
        """
        scores = self._predict(model)
        cost = kprune.cost(model)
        row = Row(
            name, cost.macs, cost.params, accuracy=accuracy(scores, self.y)
        )
        if file is not None:
            row = dataclasses.replace(row, **self._write(model, file))
        self.rows.append(row)
        return scores

    def add_file(
        self, name: str, model: keras.Model, file: str, **options: Any
    ) -> Row:
        """Export a model and add a row measured on the file itself.

        Args:
            name: Name of the row.
            model: Compact or plain model.
            file: Name of the file in `folder`, ending in `.tflite` or `.onnx`.
            **options: `quantize` and `calibration` of `kprune.export`.

        Returns:
            The row; `difference` and `agreement` compare all test outputs
            with Keras.
        """
        measured = self._write(model, file, **options)
        runtime = open_runtime(self.folder / file)
        outputs = runtime.run_batched({runtime.inputs[0].name: self.x})
        scores = outputs[runtime.outputs[0].name]
        reference = self._predict(model)
        cost = kprune.cost(model)
        row = Row(
            name,
            cost.macs,
            cost.params,
            accuracy=accuracy(scores, self.y),
            difference=relative_difference(reference, scores),
            agreement=accuracy(scores, reference.argmax(axis=-1)),
            **measured,
        )
        self.rows.append(row)
        return row

    def measure_latency(self, seconds: float = 1.0) -> None:
        """Time all files in turns and fill the column `latency`.

        Because of the turns, disturbances of the machine affect all files alike.

        Args:
            seconds: Minimum time for each file.
        """
        timed = [row for row in self.rows if row.file and _runs(row.file)]
        paths = [self.folder / str(row.file) for row in timed]
        if not paths:
            return
        if len(paths) == 1:
            measured = [kprune.benchmark(paths[0], seconds=seconds)]
        else:
            measured = list(compare(paths, seconds=seconds).latencies)
        medians = {
            row.name: latency.median
            for row, latency in zip(timed, measured, strict=True)
        }
        self.rows = [
            dataclasses.replace(row, latency=medians.get(row.name))
            for row in self.rows
        ]

    def _predict(self, model: keras.Model) -> np.ndarray:
        # All files of the compact model are compared with the same scores.
        if self._last is None or self._last[0] is not model:
            self._last = model, predict(model, self.x)
        return self._last[1]

    def _write(
        self, model: keras.Model, file: str, **options: Any
    ) -> dict[str, Any]:
        report = kprune.export(model, self.folder / file, **options)
        # A .keras file holds the optimizer too, so its size is not comparable.
        return {"file": file, "bytes": report.size if _runs(file) else None}

    def table(self, title: str | None = None) -> Table:
        """Return the rows for the terminal."""
        return rows_table(self.rows, title)

    def markdown(self) -> str:
        """Return the rows as a Markdown table."""
        return rows_markdown(self.rows)


def _runs(file: str) -> bool:
    return Path(file).suffix in (".tflite", ".onnx")
