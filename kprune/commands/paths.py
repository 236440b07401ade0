"""Checks of the paths on a command line, before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from kprune.arguments import absent
from kprune.outputs import FOLDER
from kprune.outputs import SAVED_MODEL
from kprune.outputs import check_file
from kprune.outputs import check_folder
from kprune.outputs import check_suffix
from kprune.outputs import format_name
from kprune.registry import modules


def check_inputs(*paths: Path | None) -> None:
    """Raise if something that will be read does not exist.

    Args:
        *paths: Files or folders; None for those that were not given.

    Raises:
        FileNotFoundError: It names the first one.
    """
    for path in paths:
        if path is not None and not path.exists():
            raise absent(path)


def check_model_output(
    path: Path, inputs: Iterable[Path | None], overwrite: bool
) -> None:
    """Raise if a model cannot be written to a path.

    Args:
        path: File or folder, whose suffix chooses the format.
        inputs: What will be read.
        overwrite: Whether it may be one of these.

    Raises:
        ValueError: An unknown suffix, or a file that is read.
        OSError: See `kprune.outputs.check_file` and `check_folder`.
    """
    if format_name(path, modules("formats")) == FOLDER:
        check_folder(path, SAVED_MODEL)
    else:
        check_file(path)
    if not overwrite:
        check_not_read(path, inputs, "; or replace it with --overwrite")


def check_output(
    path: Path,
    suffixes: tuple[str, ...],
    owner: str,
    inputs: Iterable[Path | None] = (),
) -> None:
    """Raise if a file cannot be written to a path.

    Args:
        path: The file.
        suffixes: Accepted suffixes.
        owner: What is written, for messages: `"A latency table"`.
        inputs: What will be read, which it must not be.

    Raises:
        ValueError: It ends differently, or is a file that is read.
        OSError: See `kprune.outputs.check_file`.
    """
    check_suffix(path, suffixes, owner)
    check_file(path)
    check_not_read(path, inputs)


def check_not_read(
    path: Path, inputs: Iterable[Path | None], otherwise: str = ""
) -> None:
    """Raise if a path that will be written is one that is read.

    Args:
        path: What will be written.
        inputs: What is read.
        otherwise: Another way out, for the message.

    Raises:
        ValueError: They are the same file, by any name.
    """
    for source in inputs:
        if source is None or not (source.exists() and path.exists()):
            continue
        if path.samefile(source):
            raise ValueError(
                f"{str(path)!r} is read by this command, and would be lost. Choose "
                f"another name for the output{otherwise}."
            )
