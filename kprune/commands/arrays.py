"""Reading the samples that the user names on the command line."""

from __future__ import annotations

import contextlib
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

_DAMAGE = (
    ArithmeticError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RecursionError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What reading bytes that are no arrays, or not all of them, ends in."""


def load_arrays(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Load inputs, and targets where there are any, from NumPy files.

    Args:
        path: A `.npz` file with an array `x` and perhaps `y`, or a `.npy`
            file with the inputs alone.

    Returns:
        Inputs `(n, ...)`, and targets `(n, ...)` or None.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a NumPy file, is damaged, holds Python objects, or
            has no `x`.

    Example:

    ```python
    np.savez("train.npz", x=x_train, y=y_train)
    x, y = load_arrays(Path("train.npz"))
    ```
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    # NumPy leaves a file open that it cannot read.
    with path.open("rb") as file, _named(path):
        content = np.load(file, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return content, None
        names = sorted(content)
        found = {n: content[n] for n in ("x", "y") if n in names}
        # NumPy hands on a file in the archive that is no array as bytes.
        if not all(isinstance(a, np.ndarray) for a in found.values()):
            raise ValueError("not an array")
    if "x" not in found:
        raise ValueError(
            f"{str(path)!r} holds the arrays {names}; expected `x` (inputs) and "
            'perhaps `y` (targets): np.savez("data.npz", x=x, y=y).'
        )
    return found["x"], found.get("y")


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Say of what went wrong in reading which file it was."""
    try:
        yield
    except _DAMAGE as error:
        raise ValueError(
            f"{str(path)!r} is not a NumPy file of plain arrays, or is damaged. "
            'Write one with np.savez("data.npz", x=x, y=y).'
        ) from error
