"""Rebuild and export a trained masked model, and verify and measure the files."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
from collections.abc import Iterator

import keras
import numpy as np
from rich.console import Console
from rich.progress import Progress

import kprune
from kprune.report import units
from kprune.report.evaluation import Evaluation
from kprune.report.measure import relative_difference
from kprune.report.progress import step

ONNX_PACKAGES = ("onnx", "onnxruntime", "tf2onnx")

TOLERANCE = 1e-5
"""Largest accepted difference between masked and compact outputs, as a share of the
largest output."""


@dataclasses.dataclass(frozen=True)
class Deployment:
    """The result of `deploy`.

    Args:
        compact: The rebuilt model.
        equality: Largest difference between the outputs of the masked and the
            compact model, as a share of the largest output.
        notes: Lines about what was left out, and why.
    """

    compact: keras.Model
    equality: float
    notes: tuple[str, ...] = ()


def deploy(
    evaluation: Evaluation,
    masked: keras.Model,
    calibration: np.ndarray,
    bars: Progress | None = None,
) -> Deployment:
    """Rebuild a masked model, write all its files, and add a row for each.

    Writes `compact.keras`, `compact.tflite`, `compact-int8.tflite` and, with
    the extra `onnx` installed, `compact.onnx` into the evaluation's folder.

    Args:
        evaluation: Evaluation to add the rows to.
        masked: Masked model after training.
        calibration: Typical inputs `(n, ...)`, for int8.
        bars: Display of progress, or None.

    Returns:
        `Deployment`.

    Raises:
        RuntimeError: The masked and compact model differ by more than rounding.

    Example:

    ```python
    evaluation = Evaluation(x_test, y_test, "out")
    evaluation.add_model("original", model, "original.tflite")
    deployment = deploy(evaluation, masked, x_train[:256])
    ```
    """

    def shown(label: str) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if bars is None else step(bars, label)

    with shown("rebuilding"):
        expected = evaluation.add_model("masked", masked)
        compact = kprune.rebuild(masked)
        scores = evaluation.add_model("compact", compact, "compact.keras")
        equality = relative_difference(expected, scores)
    if not equality <= TOLERANCE:
        raise RuntimeError(
            f"The compact model differs from the masked one by {equality:.1e} of "
            f"the largest output; rounding gives at most {TOLERANCE:.0e}. Please "
            "report this model."
        )
    with shown("exporting TFLite"):
        evaluation.add_file("TFLite", compact, "compact.tflite")
    with shown("exporting TFLite-int8"):
        evaluation.add_file(
            "TFLite-int8",
            compact,
            "compact-int8.tflite",
            quantize="int8",
            calibration=calibration,
        )
    notes = []
    missing = [
        name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None
    ]
    if missing:
        left_out = f"ONNX left out: {', '.join(missing)} missing; "
        notes.append(f'{left_out}run pip install "kprune[onnx]"')
    else:
        with shown("exporting ONNX"):
            evaluation.add_file("ONNX", compact, "compact.onnx")
    with shown("measuring latency"):
        evaluation.measure_latency()
    return Deployment(compact, equality, tuple(notes))


def print_result(
    console: Console, evaluation: Evaluation, deployment: Deployment
) -> None:
    """Print the table, what was verified and where the files are.

    Args:
        console: Where to print.
        evaluation: The rows; the first one is the original model.
        deployment: Result of `deploy`.

    Example:

    ```python
    print_result(Console(), evaluation, deploy(evaluation, masked, x_train))
    ```
    """
    console.print(evaluation.table())
    for line in _lines(evaluation, deployment):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _lines(evaluation: Evaluation, deployment: Deployment) -> Iterator[str]:
    original, compact = evaluation.rows[0], evaluation["compact"]
    yield (
        f"compact against {original.name}: "
        f"{_fewer(original.macs, compact.macs)} fewer MACs, "
        f"{_fewer(original.params, compact.params)} fewer parameters, "
        f"{_points(original.accuracy, compact.accuracy)} accuracy"
    )
    yield f"masked and compact outputs differ by {deployment.equality:.1e} (relative)"
    count = len(evaluation.x)
    for row in evaluation.rows:
        if row.difference is not None:
            yield (
                f"{row.name} against Keras on {count} test inputs: largest "
                f"difference {row.difference:.1e}, same class for "
                f"{units.percent(row.agreement)}"
            )
    yield from deployment.notes
    if original.file is not None:
        yield f"size and latency of {original.name}: those of {original.file}"
    yield (
        "latency: median on one thread, one example at a time; ONNX on ONNX "
        "Runtime, the others on LiteRT"
    )
    files = ", ".join(row.file for row in evaluation.rows if row.file)
    yield f"files in {evaluation.folder}/: {files}"


def _fewer(before: float | None, after: float | None) -> str:
    if not before or after is None:
        return units.MISSING
    return f"{100 * (1 - after / before):.1f} %"


def _points(before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return units.MISSING
    return f"{100 * (after - before):+.2f} points of"
