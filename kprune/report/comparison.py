"""Compare several runs."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from kprune.outputs import atomic_file
from kprune.report import plots
from kprune.report import units
from kprune.report.run import quality
from kprune.report.run import rows_of
from kprune.report.templating import template
from kprune.runs.folder import RUN
from kprune.runs.folder import runs_in
from kprune.runs.measure import minimised
from kprune.runs.record import COMPACT
from kprune.runs.record import ORIGINAL
from kprune.runs.schema import read_run

FILE = "report.html"

_log = logging.getLogger("kprune")


def summaries(root: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Summarise each run in a folder, the oldest first.

    Runs whose record cannot be read are left out, with a warning.

    Returns:
        Dictionaries with `folder`, `model`, `fingerprint` (of the model),
        `method`, `status`, `metric` and `value` (None if nothing was measured),
        `shown` (the value as text), `macs` and `params` (as text), and `left` (the
        remaining share of the MACs).

    Raises:
        FileNotFoundError: There is no run.
    """
    found = []
    for folder in runs_in(root):
        try:
            found.append(_summary(folder))
        except (OSError, ValueError) as error:
            _log.warning("The run is left out: %s", error)
    if not found:
        raise FileNotFoundError(
            f"There is no run in {os.fspath(root)!r}: expected a folder in which "
            f"each run has a folder with a {RUN}."
        )
    return found


def write_comparison(
    root: str | os.PathLike[str], runs: list[dict[str, Any]]
) -> Path:
    """Write a report of all runs in a folder, `report.html`, into that folder.

    Args:
        root: The folder.
        runs: Result of `summaries`.

    Raises:
        ImportError: jinja2 or matplotlib is not installed.
    """
    root = Path(root)
    text = template("runs.html", "A report").render(
        name=root.resolve().name, runs=runs, pictures=_pictures(runs)
    )
    with atomic_file(root / FILE) as temporary:
        temporary.write_text(text, "utf-8")
    return root / FILE


def comparison_table(runs: list[dict[str, Any]]) -> Table:
    """Return runs as a table for the terminal."""
    table = Table()
    table.add_column("run", overflow="fold")
    table.add_column("method")
    for column in ("quality", "MACs", "parameters"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("state")
    for run in runs:
        names = ("folder", "method", "shown", "macs", "params", "status")
        table.add_row(*(Text(run[name]) for name in names))
    return table


def _summary(folder: Path) -> dict[str, Any]:
    run = read_run(folder / RUN)
    rows = rows_of(run)
    before, after = rows.get(ORIGINAL, {}), rows.get(COMPACT, {})
    known = before.get("macs") and after.get("macs") is not None
    found = quality(run)
    return {
        "folder": folder.name,
        "model": run["model"]["name"],
        "fingerprint": run["model"]["fingerprint"],
        "method": run["method"],
        "status": run["status"],
        "metric": found and found[0],
        "value": found and found[1],
        "shown": units.metric(*found) if found else units.MISSING,
        "macs": units.count(after.get("macs")),
        "params": units.count(after.get("params")),
        "left": after["macs"] / before["macs"] if known else None,
    }


def _pictures(runs: list[dict[str, Any]]) -> list[str]:
    """Return a picture for each pair of a model and a metric."""
    kinds: dict[tuple[str, str], dict[str, list[tuple[float, float]]]] = {}
    names = {run["fingerprint"]: run["model"] for run in runs}
    for run in runs:
        if run["value"] is None or run["left"] is None:
            continue
        kind = (run["fingerprint"], run["metric"])
        methods = kinds.setdefault(kind, {})
        point = (run["left"], run["value"])
        methods.setdefault(run["method"], []).append(point)
    return [
        plots.scatter(
            methods,
            plots.frontier(
                [p for points in methods.values() for p in points],
                less=minimised(name),
            ),
            ("share of the MACs left", f"{name} of {names[model]}"),
            f"{name} of {names[model]} over its cost",
        )
        for (model, name), methods in kinds.items()
        if sum(map(len, methods.values())) > 1
    ]
