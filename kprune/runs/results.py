"""Results of a run: their rows, those added later, and their pages."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterable
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kprune.registry import modules
from kprune.runs import schema
from kprune.runs.folder import RUN

_log = logging.getLogger("kprune")


def annotate(
    folder: Path,
    results: Iterable[Mapping[str, Any]] = (),
    checks: Iterable[Mapping[str, Any]] = (),
    files: Mapping[str, str] | None = None,
) -> None:
    """Add later results to the record of a finished run, and update its report.

    Args:
        folder: Folder of the run.
        results: Rows with a `"name"`, and any of `macs`, `params`, `bytes`,
            `latency` in milliseconds, and `metrics` with their number of `samples`.
            They are merged into a row of the same name.
        checks: Checks to add. See `docs/runs.md`.
        files: Files of the run by name, relative to its folder or absolute.

    Raises:
        ValueError: The record is damaged.
    """
    run = schema.read_run(folder / RUN)
    for row in results:
        merge(run["results"], row)
    run["checks"].extend(checks)
    run["files"].update(files or {})
    schema.write_run(folder / RUN, run)
    write_pages(folder)


def write_pages(folder: Path) -> None:
    """Write the report of a run, if the packages for it are installed."""
    for module in modules("pages").values():
        try:
            importlib.import_module(module).write(folder)
        except ImportError as error:
            _log.info("%s has no report: %s", folder, error)


def merge(rows: list[dict[str, Any]], row: Mapping[str, Any]) -> None:
    """Add a row, or merge it into the row of the same name."""
    for known in rows:
        if known["name"] == row["name"]:
            known.update({k: v for k, v in row.items() if v is not None})
            return
    empty = dict.fromkeys(("macs", "params", "bytes", "latency", "samples"))
    rows.append({**empty, "metrics": {}, **row})
