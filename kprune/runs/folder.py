"""Make and find the folders of runs."""

from __future__ import annotations

import itertools
import logging
import os
import re
import time
from pathlib import Path

_log = logging.getLogger("kprune")

RUN = "run.json"
"""File with the record of a run. Every run folder has it."""

LATEST = "latest"
"""Name of the link to the run that was started last."""


def new_folder(root: str | os.PathLike[str], model: str, method: str) -> Path:
    """Make the folder of a new run, and point the link `latest` to it.

    Args:
        root: Folder of all runs. It is created if it is missing.
        model: Name of the model.
        method: Name of the method, in a word.

    Returns:
        A new folder `root/<date>-<time>-<model>-<method>`. A second run in the same
        second gets a number.

    Raises:
        OSError: The folder cannot be made, for example because `root` is a file.
    """
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    now = time.strftime("%Y%m%d-%H%M%S")
    name = "-".join([now, _slug(model), _slug(method)])
    for number in itertools.count(1):
        folder = root / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        break
    _point(root / LATEST, folder.name)
    return folder


def find_run(path: str | os.PathLike[str]) -> Path:
    """Return the `run.json` that a path leads to.

    Args:
        path: The file itself, the folder of a run, or a folder that holds `latest`.

    Raises:
        FileNotFoundError: There is no such file.
    """
    path = Path(path)
    for file in (path, path / RUN, path / LATEST / RUN):
        if file.is_file():
            return file
    raise FileNotFoundError(
        f"There is no run in {str(path)!r}: expected a {RUN}, or the folder of a "
        "run with one in it."
    )


def runs_in(root: str | os.PathLike[str]) -> list[Path]:
    """Return the folders of all runs in a folder, oldest first."""
    return sorted(
        file.parent
        for file in Path(root).glob(f"*/{RUN}")
        if not file.parent.is_symlink()
    )


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40] or "run"


def _point(link: Path, name: str) -> None:
    """Point a symbolic link to the folder `name` next to it."""
    if link.exists() and not link.is_symlink():
        _log.warning("%s is not a link, so it is left unchanged.", link)
        return
    temporary = link.with_name(f".{LATEST}-{name}")
    try:
        temporary.symlink_to(name, target_is_directory=True)
        os.replace(temporary, link)
    except OSError as error:  # Windows allows links to some users only.
        _log.info("There is no link to the latest run: %s", error)
