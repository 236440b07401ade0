"""Where runs lie: one new folder each."""

from __future__ import annotations

import itertools
import logging
import os
import re
import time
from pathlib import Path

_log = logging.getLogger("kprune")

RUN = "run.json"
"""What a run was; every folder of a run has it."""

LATEST = "latest"
"""Beside the runs: a link to the one that was begun last."""


def new_folder(root: str | os.PathLike[str], model: str, method: str) -> Path:
    """Make the folder of a new run, and let `latest` point to it.

    Args:
        root: Folder of all runs; made if missing.
        model: Name of the model.
        method: What the run does, in a word.

    Returns:
        `root/<date>-<time>-<model>-<method>`, which did not exist. A second run
        of the same second gets a number.

    Raises:
        OSError: It cannot be made; `root` is a file, for example.
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
    """Return the `run.json` that a path stands for.

    Args:
        path: That file, the folder of a run, or a folder with `latest` in it.

    Raises:
        FileNotFoundError: There is none.
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
    """Let a symbolic link point to its neighbour `name`."""
    if link.exists() and not link.is_symlink():
        _log.warning("%s is no link, so it stays as it is.", link)
        return
    temporary = link.with_name(f".{LATEST}-{name}")
    try:
        temporary.symlink_to(name, target_is_directory=True)
        os.replace(temporary, link)
    except OSError as error:  # Windows allows links to some users only.
        _log.info("There is no link to the latest run: %s", error)
