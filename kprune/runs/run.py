"""Read the folder of a run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from kprune.display import Displayed
from kprune.runs.folder import find_run
from kprune.runs.schema import read_run


class Run(Displayed):
    """A recorded run, as read from its folder. Notebooks show its results.

    Args:
        path: `run.json`, the folder of a run, or a folder that holds `latest`.

    Attributes:
        folder: The run's folder, a `pathlib.Path`.
        record: The content of `run.json`. See `docs/runs.md`.

    Raises:
        FileNotFoundError: There is no such run.
        ValueError: The record is damaged.

    Example:

    ```python
    masked = kprune.prune(model, reduce={"macs": 0.5}, data=x, run_dir="runs")
    kprune.Run("runs")
    ```
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        file = find_run(path)
        self.folder: Path = file.parent.resolve()
        self.record: dict[str, Any] = read_run(file)

    def __fspath__(self) -> str:
        return str(self.folder)

    def __repr__(self) -> str:
        return f"<Run '{self.folder.name}', {self.record['status']}>"
