"""The command `kprune inspect`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from kprune.commands.options import FORMS
from kprune.commands.options import DataDir
from kprune.commands.options import Debug
from kprune.commands.options import Dtype
from kprune.commands.options import ImageSize
from kprune.commands.options import Json
from kprune.commands.options import Model
from kprune.commands.options import Pixels
from kprune.commands.options import one_line_errors
from kprune.commands.paths import check_inputs
from kprune.commands.paths import check_output
from kprune.commands.samples import find_data
from kprune.commands.start import start_keras
from kprune.report.templating import require_jinja2


@one_line_errors
def inspect(  # noqa: PLR0913  options of a command
    model: Model,
    as_json: Json = False,
    graph: Annotated[
        Path | None,
        typer.Option(help="Draw the layers, coloured by group: .svg or .html."),
    ] = None,
    pruned_by: Annotated[
        Path | None,
        typer.Option(
            "--run", help="Folder of a run: show what it kept in each group."
        ),
    ] = None,
    ram: Annotated[
        bool,
        typer.Option(
            "--ram",
            help="Show where the peak of activation memory is, and what it holds.",
        ),
    ] = False,
    dtype: Annotated[
        Dtype | None,
        typer.Option(
            help="Number format that --ram counts in. Defaults to int8."
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Samples, for a model with gates that depend on them: count their "
            f"mean cost. {FORMS}."
        ),
    ] = None,
    data_dir: DataDir = None,
    image_size: ImageSize = None,
    pixels: Pixels = None,
    debug: Debug = False,
) -> None:
    """Show which channels of a model can be pruned, and why others cannot.

    Prints the coverage, and then every group of channels that can only be removed
    together: its size, its layers, and the MACs and parameters it is part of.

    Example: `kprune inspect model.keras --graph model.svg`

    Example: `kprune inspect model.keras --run runs/latest --graph model.html`

    Example: `kprune inspect model.keras --ram`

    Example: `kprune inspect dynamic.keras --data photos`
    """
    if dtype is not None and not ram:
        raise typer.BadParameter(
            "is what --ram counts in; add --ram.", param_hint="--dtype"
        )
    check_inputs(model, pruned_by)
    found = find_data(data, None, data_dir, image_size, pixels)
    if graph is not None:
        check_output(graph, (".svg", ".html"), "A drawing", [model])
        require_jinja2("A drawing")
    start_keras()
    from kprune.commands.files import load_model
    from kprune.report.inspection import inspection
    from kprune.report.inspection import inspection_text

    loaded = load_model(model)
    if pruned_by is not None:
        from kprune.runs import show

        loaded = show(pruned_by, loaded)
    result = inspection(loaded)
    text = inspection_text(result)
    samples = found.samples(loaded)
    if samples is not None:
        import kprune
        from kprune.report import units

        cost = kprune.dynamic_cost(loaded, samples.x)
        result["dynamic"] = {"samples": samples.size, "macs": cost.macs}
        text += (
            f"\n\nthe mean of {samples.size:,} samples: "
            f"{units.count(cost.macs)} MACs, branches of the gates included"
        )
    if ram:
        from kprune.report.memory import memory_peak
        from kprune.report.memory import memory_text

        result["ram"] = memory_peak(loaded, (dtype or Dtype.int8).value)
        text += "\n\n" + memory_text(result["ram"])
    if graph is not None:
        from kprune.report.drawing import draw

        draw(loaded, graph)
        result["wrote"] = str(graph)
        text += f"\n\nwrote {graph}"
    print(json.dumps(result, indent=2) if as_json else text)
