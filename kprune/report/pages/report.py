"""`report.html`."""

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
        folder: It holds `run.json`.

    Returns:
        The file.

    Raises:
        ImportError: jinja2 or matplotlib is missing.
        ValueError: The record is damaged.
    """
    # `latest` is a link, and no name.
    text = run_page(read_run(folder / RUN), folder.resolve().name)
    with atomic_file(folder / FILE) as temporary:
        temporary.write_text(text, "utf-8")
    return folder / FILE
