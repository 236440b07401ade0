"""`kprune bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kprune.commands.options import Debug
from kprune.commands.options import one_line_errors
from kprune.commands.start import start_keras


@one_line_errors
def bench(
    files: Annotated[
        list[Path], typer.Argument(help="Models: .tflite, .onnx or .keras.")
    ],
    threads: Annotated[
        int, typer.Option(min=1, help="Threads the runtime may use.")
    ] = 1,
    debug: Debug = False,
) -> None:
    """Measure the latency of models on LiteRT or ONNX Runtime.

    Prints the median and the 10th and 90th percentile of many runs with one
    example. A `.keras` file is converted to float32 TFLite first.

    Example: `kprune bench original.tflite compact.tflite --threads 2`
    """
    start_keras()
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    import kprune
    from kprune.commands.files import load_model
    from kprune.report import units
    from kprune.report.progress import progress
    from kprune.report.progress import step

    table = Table()
    table.add_column("file", overflow="fold")
    for column in ("size", "median", "p10", "p90"):
        table.add_column(column, justify="right", no_wrap=True)
    with progress() as bars:
        for file in files:
            with step(bars, file.name):
                kerasfile = file.suffix in (".keras", ".h5", ".hdf5")
                subject = load_model(file) if kerasfile else file
                latency = kprune.benchmark(subject, threads=threads)
            table.add_row(
                Text(str(file)),
                units.size(file.stat().st_size),
                units.milliseconds(latency.median),
                units.milliseconds(latency.p10),
                units.milliseconds(latency.p90),
            )
    Console().print(table)
