"""`kprune export`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated
from typing import Any

import typer

from kprune.commands.options import Debug
from kprune.commands.options import Overwrite
from kprune.commands.options import one_line_errors
from kprune.commands.paths import check_inputs
from kprune.commands.paths import check_model_output
from kprune.commands.start import start_keras


class Quantize(StrEnum):
    """Number formats of a `.tflite` file besides float32."""

    float16 = "float16"
    dynamic = "dynamic"
    int8 = "int8"
    qat = "qat"


class InputsAndOutputs(StrEnum):
    """Number formats of the inputs and outputs of an int8 file."""

    float32 = "float32"
    int8 = "int8"


Calibration = Annotated[
    Path | None,
    typer.Option(help="Typical inputs for int8: .npz with x, or .npy."),
]
Data = Annotated[
    Path | None,
    typer.Option(
        help="Training data for --quantize qat and --clusters: .npz with x and y."
    ),
]
Epochs = Annotated[
    int | None,
    typer.Option(min=1, help="Epochs of training on --data; 1 by default."),
]
Clusters = Annotated[
    int | None,
    typer.Option(
        min=2,
        help="Leave this many different weights in each kernel, so that the file "
        "packs well.",
    ),
]

IoDtype = Annotated[
    InputsAndOutputs | None,
    typer.Option(
        help="Inputs and outputs of an int8 file; float32 by default."
    ),
]
Opset = Annotated[
    int | None, typer.Option(help="Operator set of an .onnx file.")
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Examples per call; 0 for any number. By default 1 in .tflite and "
        ".h, any in .onnx.",
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
    model: Annotated[Path, typer.Argument(help="Model, a .keras file.")],
    out: Annotated[
        Path,
        typer.Argument(
            help="File to write: .tflite, .onnx, .keras or .h; or a folder."
        ),
    ],
    quantize: Annotated[
        Quantize | None,
        typer.Option(help="Number format of a .tflite or .h file."),
    ] = None,
    calibration: Calibration = None,
    data: Data = None,
    epochs: Epochs = None,
    clusters: Clusters = None,
    io_dtype: IoDtype = None,
    opset: Opset = None,
    batch_size: BatchSize = None,
    tolerance: Tolerance = None,
    original: Original = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report as JSON.")
    ] = False,
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Convert a model for deployment and verify the file against Keras.

    A model that still holds masks is rebuilt first. Training needs the optional
    packages of `pip install "kprune[tfmot]"`, and goes by the loss that the model
    was saved with.

    Example: `kprune export model.keras model.tflite --quantize int8
    --calibration x.npy`

    Example: `kprune export model.keras model.tflite --quantize qat
    --data train.npz --epochs 3`
    """
    _check(quantize, calibration, data)
    inputs = (model, calibration, data, original)
    check_inputs(*inputs)
    check_model_output(out, inputs, overwrite)
    start_keras()
    import json

    import kprune
    from kprune.commands.arrays import load_arrays
    from kprune.commands.files import load_model
    from kprune.report.progress import progress
    from kprune.report.progress import step

    with progress() as bars:
        with step(bars, "loading"):
            keras_model = load_model(model)
            samples = (
                None if calibration is None else load_arrays(calibration)[0]
            )
            pairs = None if data is None else load_arrays(data)
            given: dict[str, Any] = {
                "data": pairs,
                "epochs": epochs,
                "clusters": clusters,
                "io_dtype": None if io_dtype is None else io_dtype.value,
                "opset": opset,
                "tolerance": tolerance,
                "original": original,
            }
            options = {k: v for k, v in given.items() if v is not None}
            if batch_size is not None:
                options["batch_size"] = batch_size or None
        with step(bars, f"writing {out.name}"):
            report = kprune.export(
                keras_model,
                out,
                quantize=None if quantize is None else quantize.value,
                calibration=samples,
                **options,
            )
    print(json.dumps(report.to_dict(), indent=2) if as_json else report)


def _check(
    quantize: Quantize | None, calibration: Path | None, data: Path | None
) -> None:
    """Raise typer.BadParameter for data that is missing."""
    if quantize is Quantize.int8 and calibration is None and data is None:
        raise typer.BadParameter(
            "--quantize int8 needs typical inputs: --calibration x.npy",
            param_hint="--calibration",
        )
    if quantize is Quantize.qat and data is None:
        raise typer.BadParameter(
            "--quantize qat trains the model and needs inputs and targets: --data "
            'train.npz, written by np.savez("train.npz", x=x, y=y).',
            param_hint="--data",
        )
