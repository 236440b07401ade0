"""Check paths on the command line, before heavy imports."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from collections.abc import Iterator
from pathlib import Path

import typer

from kprune.arguments import absent
from kprune.outputs import FOLDER
from kprune.outputs import SAVED_MODEL
from kprune.outputs import check_file
from kprune.outputs import check_folder
from kprune.outputs import check_suffix
from kprune.outputs import format_name
from kprune.registry import modules


def check_inputs(*paths: Path | None) -> None:
    """Raise if an input does not exist.

    Args:
        *paths: Files or folders; None for those not given.

    Raises:
        FileNotFoundError: If one does not exist. The message names the first.
    """
    for path in paths:
        if path is not None and not path.exists():
            raise absent(path)


def check_model_output(
    path: Path, inputs: Iterable[Path | None], overwrite: bool
) -> None:
    """Raise if a model cannot be written to a path.

    Args:
        path: File or folder; its suffix sets the format.
        inputs: Files that will be read.
        overwrite: Whether the path may be one of these.

    Raises:
        typer.BadParameter: If the suffix is unknown.
        ValueError: If the path is an input.
        OSError: See `kprune.outputs.check_file` and `check_folder`.
    """
    if model_format(path) == FOLDER:
        check_folder(path, SAVED_MODEL)
    else:
        check_file(path)
    if not overwrite:
        check_not_read(path, inputs, "; or replace it with --overwrite")


def model_format(path: Path) -> str:
    """Return the format that the suffix of a model's path chooses.

    Raises:
        typer.BadParameter: If the suffix is unknown.
    """
    with _wrong_suffix("out"):
        return format_name(path, modules("formats"))


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
        owner: The written object, for messages: `"A latency table"`.
        inputs: Files that will be read, which it must not be.

    Raises:
        typer.BadParameter: If the suffix is wrong.
        ValueError: If the path is an input.
        OSError: See `kprune.outputs.check_file`.
    """
    with _wrong_suffix(os.fspath(path)):
        check_suffix(path, suffixes, owner)
    check_file(path)
    check_not_read(path, inputs)


@contextlib.contextmanager
def _wrong_suffix(hint: str) -> Iterator[None]:
    """Make an error about a suffix one of wrong usage."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=hint) from None


def check_not_read(
    path: Path, inputs: Iterable[Path | None], otherwise: str = ""
) -> None:
    """Raise if an output path is also an input.

    Args:
        path: The output.
        inputs: The inputs.
        otherwise: Another remedy, for the message.

    Raises:
        ValueError: If they are the same file, under any name.
    """
    for source in inputs:
        if source is None or not (source.exists() and path.exists()):
            continue
        if path.samefile(source):
            raise ValueError(
                f"{str(path)!r} is an input of this command, and would be lost. "
                f"Choose another name for the output{otherwise}."
            )
