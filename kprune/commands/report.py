"""The command `kprune report`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from kprune.arguments import absent
from kprune.commands.options import Debug
from kprune.commands.options import one_line_errors
from kprune.commands.start import start_keras


@one_line_errors
def report(
    path: Annotated[
        Path, typer.Argument(help="Folder of a run, or of several runs.")
    ],
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print JSON instead of writing a page."),
    ] = False,
    debug: Debug = False,
) -> None:
    """Write the report of a run again, or compare runs.

    In the folder of a run, this writes `report.html` from its `run.json`. In a
    folder of several runs, it writes a `report.html` that compares them.

    Example: `kprune report runs/latest`

    Example: `kprune report runs`
    """
    if not path.exists():
        raise FileNotFoundError(
            f"{absent(path, 'folder')} kprune prune --run-dir writes one for each run."
        )
    start_keras()
    from kprune.commands.outcome import print_table
    from kprune.report.comparison import comparison_table
    from kprune.report.comparison import summaries
    from kprune.report.comparison import write_comparison
    from kprune.report.pages.report import write
    from kprune.runs.folder import RUN
    from kprune.runs.schema import read_run

    folder = path.parent if path.name == RUN else path
    if (folder / RUN).is_file():
        if as_json:
            print(json.dumps(read_run(folder / RUN), indent=2))
        else:
            print(f"wrote {write(folder)}")
        return
    runs = summaries(folder)
    if as_json:
        print(json.dumps(runs, indent=2))
        return
    print_table(comparison_table(runs))
    print(f"wrote {write_comparison(folder, runs)}")
