"""`kprune bench`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from typing import Annotated
from typing import Any

import typer

from kprune.commands.options import Debug
from kprune.commands.options import one_line_errors
from kprune.commands.paths import check_inputs
from kprune.commands.start import start_keras

if TYPE_CHECKING:
    from rich.table import Table

_KERAS = (".keras", ".h5", ".hdf5")
_ROUNDS = 10
_FIRST_SECONDS = 1.0


@one_line_errors
def bench(
    files: Annotated[
        list[Path], typer.Argument(help="Models: .tflite, .onnx or .keras.")
    ],
    threads: Annotated[
        int, typer.Option(min=1, help="Threads the runtime may use.")
    ] = 1,
    precision: Annotated[
        float,
        typer.Option(
            min=0.001,
            help="Width of the ratio's interval at which measuring ends.",
        ),
    ] = 0.02,
    seconds: Annotated[
        float, typer.Option(min=0, help="Time after which it ends anyway.")
    ] = 30.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON instead.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Measure the latency of models on LiteRT or ONNX Runtime.

    Several files are timed in turns, in a new order every round, and compared
    with the first one. Prints medians with their 95 % confidence intervals, and
    whether a difference can be told at all. A `.keras` file is converted to
    float32 TFLite first.

    Example: `kprune bench original.tflite compact.tflite --threads 2`
    """
    check_inputs(*files)
    start_keras()
    import json

    from rich.console import Console

    from kprune.report.progress import progress
    from kprune.report.progress import step

    with progress() as bars, step(bars, "measuring"):
        result = _measure(files, threads, precision, seconds)
    if as_json:
        print(json.dumps(result, indent=2))
        return
    console = Console()
    console.print(_table(result))
    for sentence in result["verdicts"]:
        console.print(sentence, highlight=False, markup=False, soft_wrap=True)


def _measure(
    files: list[Path], threads: int, precision: float, seconds: float
) -> dict[str, Any]:
    """Return what `Comparison.to_dict` does, with the size of each file."""
    import dataclasses

    import kprune
    from kprune.commands.files import load_model

    subjects = [load_model(f) if f.suffix in _KERAS else f for f in files]
    result: dict[str, Any]
    if len(files) == 1:
        alone = kprune.benchmark(subjects[0], threads=threads)
        models = [{"name": str(files[0]), **alone.to_dict()}]
        result = {"rounds": None, "models": models, "verdicts": []}
    else:
        found = kprune.compare(
            subjects,
            threads=threads,
            rounds=_ROUNDS,
            seconds=_FIRST_SECONDS,
            precision=precision,
            time_limit=seconds,
        )
        # A loaded model's own name says less than that of its file.
        names = tuple(map(str, files))
        result = dataclasses.replace(found, names=names).to_dict()
    for file, model in zip(files, result["models"], strict=True):
        model["size"] = file.stat().st_size
    return result


def _table(result: dict[str, Any]) -> Table:
    from rich.table import Table
    from rich.text import Text

    from kprune.export.compare import short_names
    from kprune.report import units

    table = Table()
    table.add_column("file", overflow="fold")
    for column in ("size", "median", "95 % interval", "p10 to p90"):
        table.add_column(column, justify="right", no_wrap=True)
    models = result["models"]
    names = short_names([model["name"] for model in models])
    for name, model in zip(names, models, strict=True):
        table.add_row(
            Text(name),
            units.size(model["size"]),
            units.milliseconds(model["median"]),
            _span(model["low"], model["high"]),
            _span(model["p10"], model["p90"]),
        )
    return table


def _span(low: float | None, high: float | None) -> str:
    from kprune.report import units

    ends = map(units.milliseconds, (low, high))
    return "-".join(end.removesuffix(" ms") for end in ends)
