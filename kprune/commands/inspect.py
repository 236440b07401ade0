"""`kprune inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kprune.commands.options import Debug
from kprune.commands.options import Json
from kprune.commands.options import one_line_errors
from kprune.commands.paths import check_inputs
from kprune.commands.paths import check_output
from kprune.commands.start import start_keras


@one_line_errors
def inspect(
    model: Annotated[Path, typer.Argument(help="Model, a .keras file.")],
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
    debug: Debug = False,
) -> None:
    """Show which channels of a model can be pruned, and why others cannot.

    Coverage comes first, then every group of channels that live and die
    together: its size, where it sits, and the MACs and parameters that touch it.

    Example: `kprune inspect model.keras --graph model.svg`

    Example: `kprune inspect model.keras --run runs/latest --graph model.html`
    """
    check_inputs(model, pruned_by)
    if graph is not None:
        check_output(graph, (".svg", ".html"), "A drawing", [model])
    start_keras()
    import json

    from kprune.commands.files import load_model
    from kprune.report.inspection import inspection
    from kprune.report.inspection import inspection_text

    loaded = load_model(model)
    if pruned_by is not None:
        from kprune.runs import show

        loaded = show(pruned_by, loaded)
    if graph is not None:
        from kprune.report.drawing import draw

        draw(loaded, graph)
    data = inspection(loaded)
    print(json.dumps(data, indent=2) if as_json else inspection_text(data))
