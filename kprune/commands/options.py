"""What the commands share: common options and how errors are told."""

from __future__ import annotations

import functools
import os
import sys
import traceback
from collections.abc import Callable
from typing import Annotated
from typing import TypeVar

import typer

from kprune.arguments import did_you_mean
from kprune.registry import modules

Result = TypeVar("Result")

Debug = Annotated[
    bool, typer.Option("--debug", help="On failure, print the whole traceback.")
]

Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Replace the file that the model is read from."
    ),
]


NONE = "none"
"""What stands for no part at all."""


def known(
    kind: str, several: bool = False
) -> Callable[[str | None], str | None]:
    """Return a check of an option that names a part, before anything is loaded.

    Args:
        kind: Folder of the parts, `"criteria"`.
        several: Accept names with commas between them, and `"none"`.

    Returns:
        A callback for `typer.Option`.
    """

    def check(value: str | None) -> str | None:
        names = modules(kind)
        if value is None or (several and value == NONE):
            return value
        for part in value.split(",") if several else [value]:
            if part not in names:
                raise typer.BadParameter(
                    f"received {part!r}. {did_you_mean(part, names)}"
                )
        return value

    return check


def listed(kind: str) -> str:
    """Return the names of parts, for the help of an option.

    Args:
        kind: Folder of the parts, `"criteria"`.
    """
    *names, last = modules(kind)
    return f"{', '.join(names)} or {last}"


def one_line_errors(command: Callable[..., Result]) -> Callable[..., Result]:
    """Make a command end in one line on standard error and exit code 1.

    With `--debug` the traceback comes first. typer itself answers wrong usage
    with exit code 2 before the command runs.

    Args:
        command: Function with a keyword argument `debug`.

    Returns:
        Function with the same signature.

    Example:

    ```python
    @app.command()
    @one_line_errors
    def inspect(model: Path, debug: Debug = False) -> None: ...
    ```
    """

    @functools.wraps(command)
    def guarded(*args: object, **kwargs: object) -> Result:
        try:
            return command(*args, **kwargs)
        except (typer.Exit, typer.BadParameter):
            raise
        except BrokenPipeError:
            # The reader (`head`, a pager) is gone: no one to tell, and the
            # interpreter must not try again when it closes.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None
        except Exception as error:
            if kwargs.get("debug"):
                traceback.print_exc()
            message = " ".join(str(error).split()) or type(error).__name__
            print(f"kprune: error: {message}", file=sys.stderr)
            raise typer.Exit(1) from None

    return guarded
