"""Options that commands share, and the handling of errors."""

from __future__ import annotations

import functools
import os
import re
import sys
import traceback
import typing
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated
from typing import TypeVar

import typer
from typer.models import OptionInfo

from kprune.arguments import did_you_mean
from kprune.commands.needs import runtime_names
from kprune.commands.samples import check_pixels
from kprune.commands.samples import offer_pixels
from kprune.registry import modules

Result = TypeVar("Result")

INTERRUPTED = 130
"""Exit code after Ctrl-C, as in shells."""

CLOSED = 141
"""Exit code if the reader of standard output has closed it, as in shells."""

Model = Annotated[Path, typer.Argument(help="Model, a .keras file.")]

TrainedModel = Annotated[
    Path, typer.Argument(help="Trained model, a .keras file.")
]

ModelOut = Annotated[
    Path,
    typer.Argument(
        help="File to write: .keras, .tflite, .onnx, .h (a C array for "
        "microcontrollers) or .binary (of the method cross-filter, for "
        "kprune.binary.load); or a folder for a SavedModel."
    ),
]

Debug = Annotated[
    bool, typer.Option("--debug", help="On failure, print the whole traceback.")
]

Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Replace the file that the model is read from."
    ),
]

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

Validation = Annotated[
    Path | None,
    typer.Option(
        help="Labelled samples to measure accuracy on, in any form of --data. "
        "Defaults to a validation part of --data (a folder val or test, arrays "
        "x_test and y_test, a split), or else to all of --data."
    ),
]

DataDir = Annotated[
    Path | None,
    typer.Option(
        help="Folder of TensorFlow Datasets, for --data NAME. Defaults to "
        "TFDS_DATA_DIR or ~/tensorflow_datasets."
    ),
]

ImageSize = Annotated[
    str | None,
    typer.Option(
        help="Height and width to scale images to, such as 224x224, for models "
        "that take any size.",
        metavar="HxW",
    ),
]

Pixels = Annotated[
    str | None,
    typer.Option(
        help="Range to scale pixels to: raw (0 to 255), unit (0 to 1), tf (-1 "
        "to 1), torch or caffe (as in keras.applications). By default the range is "
        "inferred from the model's layers, and arrays are not changed.",
        callback=check_pixels,
        autocompletion=offer_pixels,
    ),
]

FORMS = (
    "a folder of class folders with images, .npz with x (and y), .npy, .csv, or a "
    "data set of TensorFlow Datasets (cifar10, cifar10:test[:500])"
)
"""Accepted forms of `--data`, for the help of commands."""


class Dtype(StrEnum):
    """Number formats that a model runs in."""

    float32 = "float32"
    int8 = "int8"


def check_runtime(value: str | None) -> str | None:
    """Raise typer.BadParameter unless `--runtime` begins with the name of one."""
    name, names = (value or "").partition("/")[0], runtime_names()
    if value is not None and name not in names:
        raise typer.BadParameter(
            f"received {value!r}. {did_you_mean(name, names)}"
        )
    return value


def offer_runtimes(incomplete: str) -> list[str]:
    """Return the shell completions of `--runtime`."""
    return [name for name in runtime_names() if name.startswith(incomplete)]


DtypeOption = Annotated[
    Dtype | None,
    typer.Option(
        help="Number format that the model will run in. Defaults to the first "
        "that the runtime supports: float32, or int8 on an NPU."
    ),
]
RuntimeOption = Annotated[
    str | None,
    typer.Option(
        help="Runtime of the model: litert, onnxruntime, or an Ethos-U by Vela's "
        "name, such as ethos-u55-128, optionally with a memory mode, such as "
        "ethos-u55-128/Sram_Only.",
        callback=check_runtime,
        autocompletion=offer_runtimes,
    ),
]

NONE = "none"
"""Value of an option that asks for no part at all."""


def known(
    kind: str, several: bool = False
) -> Callable[[str | None], str | None]:
    """Return a check for an option that names a part. The check loads nothing.

    Args:
        kind: Folder of the parts, such as `"criteria"`.
        several: Whether to accept several names separated by commas, and `"none"`.

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


def complete(kind: str, several: bool = False) -> Callable[[str], list[str]]:
    """Return the shell completion of an option that names a part.

    Args:
        kind: Folder of the parts, such as `"criteria"`.
        several: Whether several names may be given, separated by commas.

    Returns:
        `autocompletion` for `typer.Option`.
    """

    def offered(incomplete: str) -> list[str]:
        before, comma, last = (
            incomplete.rpartition(",") if several else ("", "", incomplete)
        )
        names = [*modules(kind), *([NONE] if several and not comma else [])]
        return [f"{before}{comma}{n}" for n in names if n.startswith(last)]

    return offered


def listed(kind: str) -> str:
    """Return the names of parts, for the help of an option.

    Args:
        kind: Folder of the parts, such as `"criteria"`.
    """
    *names, last = modules(kind)
    return f"{', '.join(names)} or {last}"


def one_line_errors(command: Callable[..., Result]) -> Callable[..., Result]:
    """Make errors of a command print one line to standard error, with exit code 1.

    With `--debug` the traceback is printed first. For wrong usage, typer itself
    exits with code 2 before the command runs. Ctrl-C exits with code 130, a closed
    standard output with code 141 and no line.

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
            result = command(*args, **kwargs)
            if sys.stdout is not None:  # It is closed in daemons.
                sys.stdout.flush()
            return result
        except (typer.Exit, typer.BadParameter):
            raise
        except BrokenPipeError:
            # The reader (`head`, a pager) has closed the pipe. The interpreter must
            # not try to write to it again when it exits.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(CLOSED) from None
        except KeyboardInterrupt as error:
            message = str(error) or "interrupted."
            print(f"kprune: {message}", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            if kwargs.get("debug"):
                traceback.print_exc()
            message = " ".join(str(error).split()) or type(error).__name__
            message = in_options(message, command)
            print(f"kprune: error: {message}", file=sys.stderr)
            raise typer.Exit(1) from None

    return guarded


def in_options(message: str, command: Callable[..., object]) -> str:
    """Write the arguments that a message of the library names as options.

    Args:
        message: Message with `` `epochs` ``, `` `epochs=1` ``, or `quantize='qat'`
            after a word or a colon. Calls and other names stay as they are.
        command: Function whose options they may be.
    """
    names = _options_of(command)

    def option(found: re.Match[str]) -> str:
        name, _, value = found[0].strip("`").partition("=")
        if name not in names:
            return found[0]
        text = f"{names[name]} {value.strip(_QUOTES)}".rstrip()
        return f"`{text}`" if found[0].startswith("`") else text

    return _ARGUMENT.sub(option, message)


_QUOTES = "'\""
_VALUE = r"('\w+'|\"\w+\"|[\d.]*\d)"
_ARGUMENT = re.compile(
    rf"`\w+(={_VALUE})?`|(?<=[\w:] )[a-z]\w*={_VALUE}(?![\w(])"
)


def _options_of(command: Callable[..., object]) -> dict[str, str]:
    """Return the options of a command by the names of its arguments."""
    found = {}
    hints = typing.get_type_hints(command, include_extras=True)
    for name, hint in hints.items():
        for part in getattr(hint, "__metadata__", ()):
            if isinstance(part, OptionInfo):
                # Without a default of the option, its name is in that place.
                told = map(str, (part.default, *(part.param_decls or ())))
                own = f"--{name.replace('_', '-')}"
                found[name] = next((t for t in told if t[:2] == "--"), own)
    return found
