"""Read samples from NumPy files and tables."""

from __future__ import annotations

import contextlib
import csv
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kprune.arguments import absent
from kprune.data.classes import is_number
from kprune.data.classes import number_words
from kprune.data.inputs import BATCH
from kprune.data.inputs import Input

_DAMAGE = (
    ArithmeticError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,  # an archive with a password or an unknown compression
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
"""Errors that reading a damaged file, or one of another kind, can raise."""

TARGETS = ("y", "label", "labels", "class", "target", "targets")
"""Names of a column or array that holds targets."""

_INDEX = ("", "unnamed: 0")
"""What pandas writes above an index without a name, and what it makes of that."""

_MISSING = ("", "?", "n/a", "na", "none", "null")
"""Cells without a value, which name no column."""

_SAVE = 'np.savez("data.npz", x=x, y=y)'


def load_arrays(
    path: Path, ending: str | None = None, inputs: Sequence[Input] = ()
) -> tuple[Any, np.ndarray | None]:
    """Load inputs, and targets where there are any, from NumPy files.

    Args:
        path: A `.npy` file with the inputs alone, or a `.npz` file: arrays `x`
            and perhaps `y`; `x_train` and `y_train`; one array named after each
            of several inputs; or arrays of any name, one of which fits the input.
        ending: Preferred ending of the names, for example `"train"`; `""` or None
            prefers `x`.
        inputs: The model's inputs, to recognise arrays with other names.

    Returns:
        Inputs `(n, ...)`, or a dictionary of these, and targets `(n, ...)` or
        None.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a NumPy file, is damaged, holds Python objects, has
            no inputs, or targets of bytes that are not UTF-8.

    Example:

    ```python
    np.savez("train.npz", x=x_train, y=y_train)
    x, y = load_arrays(Path("train.npz"))
    ```
    """
    if not path.is_file():
        raise absent(path)
    # `np.load` does not close a file that it cannot read.
    with path.open("rb") as file:
        with _named(path):
            content = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return content, None
            names = sorted(content)
        for end in (f"_{ending}" if ending else "", "", "_train"):
            if f"x{end}" in names:
                chosen = (f"x{end}", f"y{end}")
                found = _read(path, content, [n for n in chosen if n in names])
                return found[chosen[0]], _targets(path, chosen[1], found)
        if inputs:
            pair = _fitting(path, content, names, inputs)
            if pair is not None:
                return pair
    raise ValueError(
        f"{str(path)!r} holds the arrays {names}; expected `x` (inputs) and "
        f"perhaps `y` (targets): {_SAVE}."
    )


def _fitting(
    path: Path,
    content: Mapping[str, Any],
    names: Sequence[str],
    inputs: Sequence[Input],
) -> tuple[Any, np.ndarray | None] | None:
    """Return the arrays that fit the inputs, and the targets if recognised."""
    own = [each.name for each in inputs]
    if set(own) <= set(names):
        found = _read(path, content, names)
        x: Any = {n: found[n] for n in own} if len(own) > 1 else found[own[0]]
        size = len(found[own[0]])
        taken = set(own)
    elif len(inputs) == 1:
        found = _read(path, content, names)
        fits = [
            n for n, a in found.items() if BATCH in inputs[0].readings(a.shape)
        ]
        if len(fits) > 1:
            raise ValueError(
                f"{str(path)!r} holds {len(fits)} arrays that fit the model's input: "
                f"{fits}. Name the one to use `x`: {_SAVE}."
            )
        if not fits:
            return None
        x, size, taken = found[fits[0]], len(found[fits[0]]), set(fits)
    else:
        return None
    others = [
        n
        for n, a in found.items()
        if n not in taken and np.shape(a)[:1] == (size,)
    ]
    y = next((n for n in TARGETS if n in others), None)
    if y is None and len(others) == 1:
        y = others[0]
    return x, None if y is None else _targets(path, y, found)


def _targets(
    path: Path, name: str, found: Mapping[str, np.ndarray]
) -> np.ndarray | None:
    """Return an array of targets, with words of bytes decoded; None if absent.

    Raises:
        ValueError: The bytes are not UTF-8.
    """
    array = found.get(name)
    if array is None or array.dtype.kind != "S":
        return array
    try:
        return np.char.decode(array, "utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"The array {name!r} of {str(path)!r} holds words of bytes that are not "
            f"UTF-8: {error.object!r}. Save it as text, with the encoding it has: "
            f'np.char.decode({name}, "latin-1").'
        ) from error


def _read(
    path: Path, content: Mapping[str, Any], names: Sequence[str]
) -> dict[str, np.ndarray]:
    with _named(path):
        found = {name: content[name] for name in names}
        # NumPy returns a file in the archive that is not an array as bytes.
        if not all(isinstance(a, np.ndarray) for a in found.values()):
            raise ValueError("not an array")
        return found


def _rows(path: Path) -> list[list[str]]:
    """Read the rows of a table that are not empty."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return [row for row in csv.reader(file) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"{str(path)!r} is not a table in UTF-8 ({error}). Save it as CSV with "
            "the encoding UTF-8."
        ) from error


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Name the file in errors that reading it raises."""
    try:
        yield
    except _DAMAGE as error:
        raise ValueError(
            f"{str(path)!r} is not a NumPy file of plain arrays, or is damaged. "
            f"Write one with {_SAVE}."
        ) from error


def load_table(
    path: Path, inputs: Sequence[Input], known: Sequence[str] = ()
) -> tuple[
    np.ndarray, np.ndarray | None, tuple[str, ...] | None, tuple[str, ...]
]:
    """Load a table with one sample per row: numbers, and labels if there are any.

    Args:
        path: A `.csv` file. Its first row may name the columns; a first column
            without a name is an index. Targets are in the column called `label`,
            `target`, `class` or `y`. Without such a name they are in the last
            column, if the table has one more column than the model takes.
        inputs: The model's only input. It is filled from the other columns in
            order.
        known: Classes of the table to train on, whose numbers hold here too.

    Returns:
        Inputs `(n, ...)`, targets `(n,)` or None, the names of the classes or
        None, and notes for the user. Targets that are words become class indices
        in alphabetical order.

    Raises:
        ValueError: The table is empty, its number of columns does not fit the
            model, a cell is not a number, or a class is not known.

    Example:

    ```python
    x, y, *_ = load_table(Path("iris.csv"), ModelInputs(model).inputs)
    ```
    """
    if len(inputs) != 1 or None in inputs[0].shape:
        raise ValueError(
            f"{str(path)!r} is a table, which fills one input of known size. Give "
            f"this model arrays: {_SAVE}."
        )
    shape = tuple(int(n or 0) for n in inputs[0].shape)
    width = math.prod(shape)
    rows = _rows(path)
    names = _header(rows)
    first = 1 if names else 0
    if len(rows) == first:
        raise ValueError(f"{str(path)!r} is empty.")
    columns = len(rows[0])
    index = 1 if names[:1] and names[0] in _INDEX else 0
    del names[:index]
    target = next((names.index(n) for n in TARGETS if n in names), None)
    if target is None and columns - index == width + 1:
        target = width
    if columns - index != width + (target is not None):
        beside = " beside its index" if index else ""
        beside += _other_separator(rows[0])
        raise ValueError(
            f"{str(path)!r} has {_columns(columns - index)}{beside}; the model takes "
            f"{width} numbers per sample, and one more column may hold the targets "
            "(called label, target, class or y, or the last)."
        )
    values, labels = [], []
    for number, row in enumerate(rows[first:], first + 1):
        if len(row) != columns:
            raise ValueError(
                f"Row {number} of {str(path)!r} has {_columns(len(row))} instead of "
                f"{columns}."
            )
        del row[:index]
        if target is not None:
            labels.append(row.pop(target).strip())
        values.append(_numbers(row, path, number))
    x = np.array(values, "float32").reshape(-1, *shape)
    notes: tuple[str, ...] = ()
    if index:
        notes = (
            f"the first column of {str(path)!r} has no name: it is an index, and "
            "left out",
        )
    elif names and target == width and _doubtful(names):
        notes = (
            f"the first row of {str(path)!r} names its columns, as all cells below "
            f"{names[-1]!r} are numbers. If it is a sample, put a row of names "
            "above it",
        )
    if target is None:
        return x, None, None, notes
    y, classes, told = number_words(str(path), labels, known)
    return x, y, classes, notes + told


def _header(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the names in the first row, in lower case; empty if it is a sample."""
    if not rows:
        return []
    names = list(map(_plain, rows[0]))
    columns = [
        [_plain(row[column]) for row in rows[1:] if len(row) > column]
        for column in range(len(names))
    ]
    if _above_index(names, columns[0]):
        return names
    for number, (name, column) in enumerate(
        zip(names, columns, strict=True), 1
    ):
        # A class can have such a name too, as in a column of `y` and `n`.
        if name in TARGETS and name not in column:
            return names
        cells = [cell for cell in column if cell not in _MISSING]
        # The last column may hold classes that mix words and numbers.
        told = cells if number == len(names) else cells[:1]
        if _is_word(name) and told and all(map(is_number, told)):
            return names
    return []


def _columns(number: int) -> str:
    return f"{number} column{'' if number == 1 else 's'}"


def _other_separator(row: Sequence[str]) -> str:
    """Return a remark if cells seem to be separated otherwise than by commas."""
    for separator, name in ((";", "semicolons"), ("\t", "tabs")):
        if separator in row[0]:
            return f" (its cells are separated by {name}: write it with commas)"
    return ""


def _doubtful(names: Sequence[str]) -> bool:
    """Return whether names may be a sample, whose last cell is a class such as `a`."""
    *others, last = names
    numbers = all(map(is_number, others)) and not _counts(others)
    return numbers and last not in TARGETS


def _above_index(names: Sequence[str], cells: Sequence[str]) -> bool:
    """Return whether the first row has names, and none for an index below.

    A sample whose first cell is missing looks alike.

    Args:
        names: The first row.
        cells: The first column below it.
    """
    if names[0] or not cells or not all(cells):
        return names[0] in _INDEX[1:]
    # The last cell may be a class.
    others = names[1:] if is_number(names[-1]) else names[1:-1]
    return (
        any(map(_is_word, others))
        or all(map(_is_word, cells))
        or _counts(cells)
        or _counts(others)
    )


def _numbers(row: Sequence[str], path: Path, number: int) -> list[float]:
    try:
        return list(map(float, row))
    except ValueError:
        cell = next(c for c in row if not is_number(c))
        raise ValueError(
            f"Row {number} of {str(path)!r} holds {cell!r} where a number is expected."
        ) from None


def _plain(cell: str) -> str:
    return cell.strip().lower()


def _counts(cells: Sequence[str]) -> bool:
    """Return whether the cells are 0, 1, 2 and so on, as pandas counts."""
    return bool(cells) and list(cells) == list(map(str, range(len(cells))))


def _is_word(cell: str) -> bool:
    return not (cell in _MISSING or is_number(cell))
