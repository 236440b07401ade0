"""The command `kprune latency`, for tables of measured operators."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kprune.commands.options import Debug
from kprune.commands.options import Dtype
from kprune.commands.options import DtypeOption
from kprune.commands.options import Json
from kprune.commands.options import Model
from kprune.commands.options import RuntimeOption
from kprune.commands.options import one_line_errors
from kprune.commands.paths import check_inputs
from kprune.commands.paths import check_output
from kprune.commands.start import start_keras
from kprune.outputs import check_root

latency = typer.Typer(
    name="latency",
    help="Measure operators, here or on a phone, so that models can be pruned for "
    "the device.",
    epilog="Example: kprune latency profile model.keras",
    no_args_is_help=True,
)


SUFFIXES = (".json",)


Threads = Annotated[int, typer.Option(min=1, help="CPU threads.")]


@latency.command()
@one_line_errors
def profile(
    model: Model,
    table: Annotated[
        Path | None,
        typer.Option(
            help="Table to complete, .json. It is created if it does not exist. "
            "Defaults to this machine's, in the user's cache folder."
        ),
    ] = None,
    runtime: RuntimeOption = None,
    dtype: DtypeOption = None,
    threads: Threads = 1,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure the time of a model's operators on this machine, or on an NPU.

    Run nothing else meanwhile. Operators in the table are not measured again.
    Times on Ethos-U are estimated by Arm's compiler.

    Example: `kprune latency profile model.keras --table laptop.json`

    Example: `kprune latency profile model.keras --runtime ethos-u55-128`
    """
    check_inputs(model)
    if table is not None:
        check_output(table, SUFFIXES, "A latency table", [model])
    start_keras()
    import kprune
    from kprune.commands.files import load_model
    from kprune.commands.outcome import print_json
    from kprune.latency import runtimes
    from kprune.latency.device import table_path
    from kprune.report import units
    from kprune.report.latency import latency_summary

    device = runtimes.get(runtime or "litert")
    number_format = dtype.value if dtype else device.dtypes[0]
    loaded = load_model(model)
    path = table or table_path(
        device.name, number_format, threads, device.device
    )
    measured = kprune.latency.profile(
        loaded, device, number_format, threads, path
    )
    predicted = kprune.latency.predict(loaded, measured)
    if as_json:
        print_json(
            {"table": path, "predicted": predicted, **measured.to_dict()}
        )
        return
    print(latency_summary(measured))
    print(f"predicted for {model.name}: {units.milliseconds(predicted)}")
    print(f"table: {path}")


@latency.command()
@one_line_errors
def files(
    model: Model,
    folder: Annotated[
        Path, typer.Argument(help="Folder to write; empty or not yet existing.")
    ],
    dtype: DtypeOption = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write the files to time on a phone or a board, and a script to do it.

    The script `measure.sh` runs LiteRT's `benchmark_model` on each file;
    `kprune latency read` makes a table of its output.

    Example: `kprune latency files model.keras for_the_phone --dtype int8`
    """
    check_inputs(model)
    check_root(folder)
    start_keras()
    import kprune
    from kprune.commands.files import load_model
    from kprune.commands.outcome import print_json

    number_format = (dtype or Dtype.float32).value
    written = kprune.latency.write_files(
        load_model(model), folder, number_format
    )
    steps = {
        "next, for an Android phone": "BENCHMARK=path/to/benchmark_model sh "
        f"{folder / 'measure.sh'}",
        "then": f"kprune latency read {folder} --device NAME --out table.json",
    }
    if as_json:
        print_json({"wrote": written, "commands": list(steps.values())})
        return
    print(f"wrote {written}")
    for when, command in steps.items():
        print(f"{when}: {command}")


@latency.command()
@one_line_errors
def read(
    folder: Annotated[
        Path,
        typer.Argument(help="Folder in which measure.sh has written its logs."),
    ],
    device: Annotated[
        str, typer.Option(help="Name of the device, for example 'Pixel 8'.")
    ],
    out: Annotated[Path, typer.Option(help="Table to write, .json.")],
    threads: Annotated[
        int, typer.Option(min=1, help="THREADS that measure.sh was run with.")
    ] = 1,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Make a table from the output of benchmark_model on the device.

    Example: `kprune latency read for_the_phone --device "Pixel 8" --out pixel8.json`
    """
    check_inputs(folder)
    check_output(out, SUFFIXES, "A latency table", [folder / "manifest.json"])
    start_keras()
    import kprune
    from kprune.commands.outcome import print_json
    from kprune.report.latency import latency_summary

    table = kprune.latency.read_logs(folder, device, threads)
    table.save(out)
    if as_json:
        print_json({"wrote": out, **table.to_dict()})
        return
    print(latency_summary(table))
    print(f"wrote {out}")


@latency.command()
@one_line_errors
def show(
    table: Annotated[Path, typer.Argument(help="A table, .json.")],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show the content of a table: device, steps, models, and every operator.

    In the shapes, `r` stands for the width read and `w` for the width written.

    Example: `kprune latency show pixel8.json`
    """
    check_inputs(table)
    start_keras()
    import kprune
    from kprune.commands.outcome import print_json
    from kprune.commands.outcome import print_table
    from kprune.report.latency import latency_rows
    from kprune.report.latency import latency_summary

    loaded = kprune.latency.load(table)
    if as_json:
        print_json(loaded.to_dict())
        return
    print(latency_summary(loaded))
    print_table(latency_rows(loaded))
