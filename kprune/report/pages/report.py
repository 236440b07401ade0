"""Write `report.html`, the report of a run."""

from __future__ import annotations

from pathlib import Path

from kprune.outputs import atomic_file
from kprune.report.run import run_page
from kprune.runs.folder import RUN
from kprune.runs.schema import read_run

FILE = "report.html"


def write(folder: Path) -> Path:
    """Write the report of a run into its folder.

    Args:
        folder: Folder with `run.json`.

    Returns:
        Path of the file.

    Raises:
        ImportError: jinja2 or matplotlib is not installed.
        ValueError: The record is damaged.
    """
    # Resolve the link `latest` to the name of the run's folder.
    text = run_page(read_run(folder / RUN), folder.resolve().name)
    with atomic_file(folder / FILE) as temporary:
        temporary.write_text(text, "utf-8")
    return folder / FILE
