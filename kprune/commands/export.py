"""`kprune export`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kprune.commands.options import Debug
from kprune.commands.options import one_line_errors
from kprune.commands.start import start_keras


class Quantize(StrEnum):
    """Number formats of a `.tflite` file besides float32."""

    float16 = "float16"
    dynamic = "dynamic"
    int8 = "int8"


@one_line_errors
def export(
    model: Annotated[Path, typer.Argument(help="Model, a .keras file.")],
    out: Annotated[
        Path,
        typer.Argument(
            help="File to write: .tflite, .onnx or .keras; or a folder."
        ),
    ],
    quantize: Annotated[
        Quantize | None, typer.Option(help="Number format of a .tflite file.")
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(help="Typical inputs for int8: .npz with x, or .npy."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Convert a model for deployment and verify the file against Keras.

    A model that still holds masks is rebuilt first.

    Example: `kprune export model.keras model.tflite --quantize int8
    --calibration x.npy`
    """
    if quantize is Quantize.int8 and calibration is None:
        raise typer.BadParameter(
            "--quantize int8 needs typical inputs: --calibration x.npy",
            param_hint="--calibration",
        )
    start_keras()
    import kprune
    from kprune.commands.files import load_arrays
    from kprune.commands.files import load_model
    from kprune.report.progress import progress
    from kprune.report.progress import step

    with progress() as bars:
        with step(bars, "loading"):
            keras_model = load_model(model)
            samples = (
                None if calibration is None else load_arrays(calibration)[0]
            )
        with step(bars, f"writing {out.name}"):
            report = kprune.export(
                keras_model,
                out,
                quantize=None if quantize is None else quantize.value,
                calibration=samples,
            )
    print(report)
