"""`kprune inspect`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from kprune.commands.options import Debug
from kprune.commands.options import Dtype
from kprune.commands.options import Json
from kprune.commands.options import Model
from kprune.commands.options import one_line_errors
from kprune.commands.paths import check_inputs
from kprune.commands.paths import check_output
from kprune.commands.start import start_keras


@one_line_errors
def inspect(
    model: Model,
    as_json: Json = False,
    graph: Annotated[
        Path | None,
        typer.Option(help="Draw the layers, coloured by group: .svg or .html."),
    ] = None,
    pruned_by: Annotated[
        Path | None,
        typer.Option(
            "--run", help="Folder of a run: show what it kept of each group."
        ),
    ] = None,
    ram: Annotated[
        bool,
        typer.Option(
            "--ram",
            help="Say where the peak of activation memory is, and what it holds.",
        ),
    ] = False,
    dtype: Annotated[
        Dtype, typer.Option(help="Number format that --ram counts in.")
    ] = Dtype.int8,
    debug: Debug = False,
) -> None:
    """Show which channels of a model can be pruned, and why others cannot.

    Coverage comes first, then every group of channels that live and die
    together: its size, where it sits, and the MACs and parameters that touch it.

    Example: `kprune inspect model.keras --graph model.svg`

    Example: `kprune inspect model.keras --run runs/latest --graph model.html`

    Example: `kprune inspect model.keras --ram`
    """
    check_inputs(model, pruned_by)
    if graph is not None:
        check_output(graph, (".svg", ".html"), "A drawing", [model])
    start_keras()
    from kprune.commands.files import load_model
    from kprune.report.inspection import inspection
    from kprune.report.inspection import inspection_text

    loaded = load_model(model)
    if pruned_by is not None:
        from kprune.runs import show

        loaded = show(pruned_by, loaded)
    data = inspection(loaded)
    text = inspection_text(data)
    if ram:
        from kprune.report.memory import memory_peak
        from kprune.report.memory import memory_text

        data["ram"] = memory_peak(loaded, dtype.value)
        text += "\n\n" + memory_text(data["ram"])
    if graph is not None:
        from kprune.report.drawing import draw

        draw(loaded, graph)
        data["wrote"] = str(graph)
        text += f"\n\nwrote {graph}"
    print(json.dumps(data, indent=2) if as_json else text)
