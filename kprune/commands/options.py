"""What the commands share: common options and how errors are told."""

from __future__ import annotations

import functools
import os
import sys
import traceback
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated
from typing import TypeVar

import typer

from kprune.arguments import did_you_mean
from kprune.commands.samples import check_pixels
from kprune.commands.samples import offer_pixels
from kprune.registry import modules

Result = TypeVar("Result")

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

Model = Annotated[Path, typer.Argument(help="Model, a .keras file.")]

TrainedModel = Annotated[
    Path, typer.Argument(help="Trained model, a .keras file.")
]

ModelOut = Annotated[
    Path, typer.Argument(help="File to write: .keras, .tflite or .onnx.")
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
        help="Labelled samples to measure accuracy on, in any form of --data. By "
        "default the part that --data sets apart (a folder val or test, arrays "
        "x_test and y_test, a split), or else --data itself."
    ),
]

DataDir = Annotated[
    Path | None,
    typer.Option(
        help="Folder of TensorFlow Datasets, for --data NAME; by default "
        "TFDS_DATA_DIR or ~/tensorflow_datasets."
    ),
]

ImageSize = Annotated[
    str | None,
    typer.Option(
        help="Height and width that images are scaled to, 224x224; for models that "
        "take any size.",
        metavar="HxW",
    ),
]

Pixels = Annotated[
    str | None,
    typer.Option(
        help="Range that pixels are scaled to: raw (0 to 255), unit (0 to 1), tf (-1 "
        "to 1), torch or caffe (as keras.applications has them). By default what "
        "the model says by its layers, and arrays as they are.",
        callback=check_pixels,
        autocompletion=offer_pixels,
    ),
]

FORMS = (
    "a folder of class folders with images, .npz with x (and y), .npy, .csv, or a "
    "data set of TensorFlow Datasets (cifar10, cifar10:test[:500])"
)
"""What `--data` takes, for the help of commands."""


class Dtype(StrEnum):
    """Number formats that a model runs in."""

    float32 = "float32"
    int8 = "int8"


DtypeOption = Annotated[
    Dtype | None,
    typer.Option(
        help="Number format that the model will run in. By default the first "
        "that the runtime has: float32, for an NPU int8."
    ),
]
RuntimeOption = Annotated[
    str | None,
    typer.Option(
        help="What the model will run on: litert, onnxruntime, or an Ethos-U by "
        "Vela's name, ethos-u55-128, perhaps with a memory mode, "
        "ethos-u55-128/Sram_Only."
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


def complete(kind: str, several: bool = False) -> Callable[[str], list[str]]:
    """Return what a shell offers for an option that names a part.

    Args:
        kind: Folder of the parts, `"criteria"`.
        several: Whether names stand with commas between them.

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
        kind: Folder of the parts, `"criteria"`.
    """
    *names, last = modules(kind)
    return f"{', '.join(names)} or {last}"


def one_line_errors(command: Callable[..., Result]) -> Callable[..., Result]:
    """Make a command end in one line on standard error and exit code 1.

    With `--debug` the traceback comes first. typer itself answers wrong usage
    with exit code 2 before the command runs. Ctrl-C is exit code 130.

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
        except KeyboardInterrupt as error:
            message = str(error) or "interrupted."
            print(f"kprune: {message}", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            if kwargs.get("debug"):
                traceback.print_exc()
            message = " ".join(str(error).split()) or type(error).__name__
            print(f"kprune: error: {message}", file=sys.stderr)
            raise typer.Exit(1) from None

    return guarded
