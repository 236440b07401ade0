"""`kprune replay`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kprune.commands.options import Debug
from kprune.commands.options import Overwrite
from kprune.commands.options import one_line_errors
from kprune.commands.paths import check_inputs
from kprune.commands.paths import check_model_output
from kprune.commands.start import start_keras


@one_line_errors
def replay(
    run: Annotated[Path, typer.Argument(help="run.json, or folder of a run.")],
    model: Annotated[
        Path, typer.Argument(help="Model that the run began with.")
    ],
    out: Annotated[
        Path, typer.Argument(help="File to write: .keras, .tflite or .onnx.")
    ],
    data: Annotated[
        Path | None,
        typer.Option(help="Samples that the run had, if it repaired by them."),
    ] = None,
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Remove the filters that a run removed, and write the smaller model.

    Nothing is scored again. A run of `kprune prune` without training is repaired
    again too, which gives the same weights for the same model and samples.

    Example: `kprune replay runs/latest model.keras small.keras --data x.npy`
    """
    inputs = (run, model, data)
    check_inputs(*inputs)
    check_model_output(out, inputs, overwrite)
    start_keras()
    import kprune
    from kprune.commands.arrays import load_arrays
    from kprune.commands.files import load_model

    samples = None if data is None else load_arrays(data)[0]
    masked = kprune.replay(run, load_model(model), samples)
    kprune.export(kprune.rebuild(masked), out)
    print(f"wrote {out}")
