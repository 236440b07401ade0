"""The command `kprune export`."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated
from typing import Any

import typer

from kprune.commands.line import CommandLine
from kprune.commands.options import FORMS
from kprune.commands.options import DataDir
from kprune.commands.options import Debug
from kprune.commands.options import Dtype
from kprune.commands.options import ImageSize
from kprune.commands.options import Json
from kprune.commands.options import Model
from kprune.commands.options import ModelOut
from kprune.commands.options import Overwrite
from kprune.commands.options import Pixels
from kprune.commands.options import Validation
from kprune.commands.options import one_line_errors
from kprune.commands.paths import check_inputs
from kprune.commands.paths import check_model_output
from kprune.commands.paths import model_format
from kprune.commands.samples import Data
from kprune.commands.samples import find_data
from kprune.commands.start import start_keras


class Quantize(StrEnum):
    """Number formats of a `.tflite` file besides float32."""

    float16 = "float16"
    dynamic = "dynamic"
    int8 = "int8"
    int4 = "int4"
    mixed = "mixed"
    qat = "qat"


CALIBRATED = (Quantize.int8, Quantize.int4, Quantize.mixed)


_LITERT = (".tflite", ".h")

FORMATS = {
    "quantize": _LITERT,
    "epochs": _LITERT,
    "clusters": _LITERT,
    "io_dtype": _LITERT,
    "error_limit": (".tflite",),
    "size_limit": (".tflite",),
    "opset": (".onnx",),
    "batch_size": (*_LITERT, ".onnx"),
}
"""Suffixes that support each option. The formats themselves need Keras."""

QUANTIZED = {".h": (Quantize.int8, Quantize.qat)}
"""Values of `--quantize` by suffix, where not all are supported."""

OPSETS = range(9, 19)
"""Values of `--opset`, those of the format `.onnx`."""

Calibration = Annotated[
    Path | None,
    typer.Option(
        help="Typical inputs for int8, int4 and mixed, in any form of --data. "
        "Defaults to those of --data."
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        help="Samples to measure accuracy on, to calibrate int8, and to train on "
        f"with --quantize qat and --clusters: {FORMS}."
    ),
]
Epochs = Annotated[
    int | None,
    typer.Option(min=1, help="Epochs of training on --data. Defaults to 1."),
]
Clusters = Annotated[
    int | None,
    typer.Option(
        min=2,
        help="Leave this many different weights in each kernel, so that the file "
        "compresses well.",
    ),
]

IoDtype = Annotated[
    Dtype | None,
    typer.Option(
        help="Number format of the inputs and outputs of an int8, int4 or mixed "
        "file. Defaults to float32."
    ),
]
ErrorLimit = Annotated[
    float | None,
    typer.Option(
        min=1,
        help="Accepted output error of a mixed file, as a multiple of the int8 "
        "file's. Defaults to 2.",
    ),
]
SizeLimit = Annotated[
    int | None,
    typer.Option(min=1, help="Maximum size of a mixed file in bytes."),
]
Opset = Annotated[
    int | None,
    typer.Option(
        min=OPSETS[0], max=OPSETS[-1], help="Operator set of an .onnx file."
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Examples per call; 0 for any number. Defaults to 1 for .tflite and "
        ".h, and any for .onnx.",
    ),
]
Tolerance = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="Largest accepted difference, relative to the largest output; inf "
        "accepts any.",
    ),
]
Original = Annotated[
    Path | None,
    typer.Option(help="Exported file of the unpruned model, to compare sizes."),
]


@one_line_errors
def export(  # noqa: PLR0913  options of a command
    model: Model,
    out: ModelOut,
    quantize: Annotated[
        Quantize | None,
        typer.Option(
            help="Number format of a .tflite file; for .h, int8 or qat. int4 and "
            "mixed (int4 where it costs little) make small files, which are slow "
            "on CPUs if they have convolutions."
        ),
    ] = None,
    calibration: Calibration = None,
    data: DataOption = None,
    validation: Validation = None,
    data_dir: DataDir = None,
    image_size: ImageSize = None,
    pixels: Pixels = None,
    epochs: Epochs = None,
    clusters: Clusters = None,
    io_dtype: IoDtype = None,
    error_limit: ErrorLimit = None,
    size_limit: SizeLimit = None,
    opset: Opset = None,
    batch_size: BatchSize = None,
    tolerance: Tolerance = None,
    original: Original = None,
    as_json: Json = False,
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Convert a model for deployment and verify the file against Keras.

    A model that still holds masks is rebuilt first. Training uses the loss that the
    model was saved with, and needs the optional packages of `pip install
    "kprune[tfmot]"`; int4 and mixed need those of `kprune[edge]`. With labelled
    samples, the accuracy of model and file is shown.

    Example: `kprune export model.keras model.tflite --quantize int8
    --data photos`

    Example: `kprune export model.keras model.tflite --quantize qat
    --data train.npz --epochs 3`
    """
    _check(quantize, calibration, data, error_limit, size_limit)
    given: dict[str, Any] = {
        "quantize": quantize and quantize.value,
        "epochs": epochs,
        "clusters": clusters,
        "io_dtype": io_dtype and io_dtype.value,
        "error_limit": error_limit,
        "size_limit": size_limit,
        "opset": opset,
        "batch_size": batch_size,
        "tolerance": tolerance,
        "original": original,
    }
    options = {k: v for k, v in given.items() if v is not None}
    check_format(out, options)
    _check_effect(quantize, data, epochs, clusters, io_dtype)
    check_inputs(model, original)
    reading = (data_dir, image_size, pixels)
    typical = Data()
    if calibration is not None:
        typical = find_data(calibration, None, *reading)
    found = Data()
    if calibration is None or data is not None or validation is not None:
        found = find_data(data, validation, *reading)
    inputs = (model, original, *found.files, *typical.files)
    check_model_output(out, inputs, overwrite)
    start_keras()
    from kprune.commands.exporting import Exporting
    from kprune.commands.outcome import advise
    from kprune.commands.outcome import lines_json
    from kprune.commands.outcome import lines_table
    from kprune.commands.outcome import print_json
    from kprune.commands.outcome import print_table

    asked = {
        "--calibration": calibration,
        "--data": data,
        "--validation": validation,
        "--data-dir": data_dir,
        "--image-size": image_size,
        "--pixels": pixels,
        **{f"--{k.replace('_', '-')}": v for k, v in options.items()},
        "--overwrite": overwrite or None,
    }
    command = CommandLine(("export", model, out), asked)
    work = Exporting(model, found, typical, command)
    kind = options.pop("quantize", None)
    if batch_size == 0:
        options["batch_size"] = None
    report = work.write(out, kind, options)
    lines = work.lines(out, original)
    if as_json:
        scored = lines_json(lines, work.size)
        warnings = [each.to_dict() for each in work.warnings]
        print_json({**report.to_dict(), **scored, "warnings": warnings})
    else:
        print(report)
        if lines:
            print_table(lines_table(lines))
    advise(work.warnings)


def check_format(out: Path, options: Mapping[str, Any]) -> None:
    """Raise typer.BadParameter for options that the format of a file does not have.

    Args:
        out: The file or folder.
        options: Options that are given, by the names that `kprune.export` has.
    """
    model_format(out)
    kind = f"a {out.suffix} file" if out.suffix else "a SavedModel"
    for name, value in options.items():
        suffixes = FORMATS.get(name, (out.suffix,))
        if out.suffix not in suffixes:
            raise typer.BadParameter(
                f"{kind} has no such option; it is for {' or '.join(suffixes)}.",
                param_hint=f"--{name.replace('_', '-')}",
            )
        accepted = QUANTIZED.get(out.suffix, (value,))
        if name == "quantize" and value not in accepted:
            raise typer.BadParameter(
                f"{kind} takes {' or '.join(accepted)}. Received: {value}.",
                param_hint="--quantize",
            )


def _check(
    quantize: Quantize | None,
    calibration: Path | None,
    data: Path | None,
    error_limit: float | None,
    size_limit: int | None,
) -> None:
    """Raise typer.BadParameter for missing or incompatible options."""
    if quantize in CALIBRATED and calibration is None and data is None:
        raise typer.BadParameter(
            f"--quantize {quantize} needs typical inputs: --data photos, or "
            "--calibration x.npy.",
            param_hint="--calibration",
        )
    if quantize is Quantize.qat and data is None:
        raise typer.BadParameter(
            "--quantize qat trains the model and needs inputs and targets: --data "
            'train.npz, written by np.savez("train.npz", x=x, y=y).',
            param_hint="--data",
        )
    limits = {"--error-limit": error_limit, "--size-limit": size_limit}
    given = [name for name, value in limits.items() if value is not None]
    if given and quantize is not Quantize.mixed:
        raise typer.BadParameter(
            "needs --quantize mixed.",
            param_hint=given[0],
        )
    if len(given) > 1:
        raise typer.BadParameter(
            "give one limit, not both.",
            param_hint=" ".join(given),
        )


def _check_effect(
    quantize: Quantize | None,
    data: Path | None,
    epochs: int | None,
    clusters: int | None,
    io_dtype: Dtype | None,
) -> None:
    """Raise typer.BadParameter for options that would have no effect."""
    trains = quantize is Quantize.qat or clusters is not None
    if epochs is not None and (not trains or data is None):
        raise typer.BadParameter(
            "there is no training without --data and --quantize qat or --clusters.",
            param_hint="--epochs",
        )
    if io_dtype is Dtype.int8 and quantize not in (*CALIBRATED, Quantize.qat):
        raise typer.BadParameter(
            "int8 needs --quantize int8, int4, mixed or qat.",
            param_hint="--io-dtype",
        )
