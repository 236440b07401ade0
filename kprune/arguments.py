"""Checks of arguments: one wording for what came and what was expected."""

from __future__ import annotations

import contextlib
import difflib
import math
import numbers
import os
import reprlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return the end of an error message: close matches and all known names.

    Args:
        name: What came.
        known: What is accepted.

    Returns:
        For example `"Did you mean 'l1'? Known names: 'l1', 'l2'."`.
    """
    names = [str(choice) for choice in known]
    hint = suggestion(name, names)
    return f"{hint}Known names: {', '.join(map(repr, names)) or 'none'}."


def suggestion(name: object, known: Iterable[str]) -> str:
    """Return a question that offers close matches; empty if there are none.

    Args:
        name: What came.
        known: What is accepted.

    Returns:
        For example `"Did you mean 'l1'? "`.
    """
    names = [str(choice) for choice in known]
    close = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
    return f"Did you mean {' or '.join(map(repr, close))}? " if close else ""


def absent(path: str | os.PathLike[str], what: str = "file") -> Exception:
    """Return an error for something that does not exist, with what is near.

    Args:
        path: What came.
        what: What was expected, for the message: `"file"`.

    Returns:
        A `FileNotFoundError` to raise.
    """
    place = Path(path)
    siblings: list[str] = []
    with contextlib.suppress(OSError):
        siblings = sorted(os.listdir(place.parent))
    hint = suggestion(place.name, siblings)
    text = f"There is no {what} {os.fspath(path)!r}. {hint}"
    return FileNotFoundError(text.rstrip())


def as_number(value: object) -> float:
    """Return a real number as a float, and NaN for all else (truth values too)."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return float(value) if real else math.nan  # type: ignore[arg-type]


def name_of(function: Any) -> str:
    """Return how messages call a function."""
    return str(getattr(function, "__name__", repr(function)))


def whole(
    value: Any,
    owner: str,
    argument: str,
    least: int = 1,
    of: str = "",
    why: str = "",
    exact: bool = False,
) -> int:
    """Return a whole number.

    Args:
        value: What came.
        owner: Class or function whose argument it is.
        argument: Name of the argument.
        least: Smallest accepted number.
        of: What it counts, for the message: `"epochs"`.
        why: Ends the message's first sentence, for example
            `": a group without channels cuts the model in two"`.
        exact: Refuse 2.0 too, for values that are used as they came.

    Raises:
        ValueError: It is not a whole number, or it is below `least`.

    Example:

    >>> whole(8, "Uniform", "round_to")
    8
    """
    number = as_number(value)
    inexact = exact and not isinstance(value, numbers.Integral)
    if inexact or not least <= number < math.inf or number % 1:
        counted = f" of {of}" if of else ""
        _refuse(
            f"a whole number{counted}, {least} or more,",
            value,
            owner,
            argument,
            why,
        )
    return int(number)


def count_or_all(value: Any, owner: str, argument: str, of: str) -> int | None:
    """Return a whole number, 1 or more; `None` stands for all there are.

    Args:
        value: What came.
        owner: Class or function whose argument it is.
        argument: Name of the argument.
        of: What it counts, for the message: `"samples"`.

    Raises:
        ValueError: It is neither.
    """
    if value is None:
        return None
    return whole(value, owner, argument, of=of, why=", or None for all")


def number(
    value: Any,
    owner: str,
    argument: str,
    least: float = -math.inf,
    above: float = -math.inf,
    why: str = "",
) -> float:
    """Return a finite number.

    Args:
        value: What came.
        owner: Class or function whose argument it is.
        argument: Name of the argument.
        least: Smallest accepted number.
        above: The number must be larger than this.
        why: See `whole`.

    Raises:
        ValueError: It is not a finite number, or it is too small.
    """
    found = as_number(value)
    if not (math.isfinite(found) and found >= least and found > above):
        wanted = "a finite number"
        if least > -math.inf:
            wanted = f"a number, {least:g} or more,"
        if above > -math.inf:
            wanted = f"a number above {above:g}"
        _refuse(wanted, value, owner, argument, why)
    return found


def share(
    value: Any,
    owner: str,
    argument: str,
    zero: bool = False,
    one: bool = False,
    why: str = "",
) -> float:
    """Return a number between 0 and 1.

    Args:
        value: What came.
        owner: Class or function whose argument it is.
        argument: Name of the argument.
        zero: Accept 0.
        one: Accept 1.
        why: See `whole`.

    Raises:
        ValueError: It is not a number, or not in the range.
    """
    found = as_number(value)
    low = 0 <= found if zero else 0 < found
    high = found <= 1 if one else found < 1
    if not (low and high):
        _refuse(_RANGES[zero, one], value, owner, argument, why)
    return found


_RANGES = {
    (False, False): "a number between 0 and 1",
    (True, False): "a number from 0 to below 1",
    (False, True): "a number above 0, up to 1,",
    (True, True): "a number from 0 to 1",
}


def model(value: Any, owner: str, argument: str = "model") -> Any:
    """Return a Keras model.

    Args:
        value: What came.
        owner: Function whose argument it is.
        argument: Name of the argument.

    Raises:
        TypeError: It is something else; the message says what to give.
    """
    import keras

    if isinstance(value, keras.Model):
        return value
    way = ""
    if isinstance(value, str | os.PathLike):
        way = " Load the file first: kprune.load(path)."
    elif isinstance(getattr(value, "masked", None), keras.Model):
        way = f" Give the model itself, `{type(value).__name__}.masked`."
    elif isinstance(value, keras.layers.Layer):
        way = " Call the layer in a model: keras.Model(x, layer(x))."
    raise TypeError(
        f"{owner} needs a keras.Model as `{argument}`. Received: {argument}="
        f"{reprlib.repr(value)} (of type {type(value).__name__}).{way}"
    )


def choice(
    value: Any, owner: str, argument: str, choices: Iterable[str]
) -> str:
    """Return one of some names.

    Args:
        value: What came.
        owner: Class or function whose argument it is.
        argument: Name of the argument.
        choices: The accepted names.

    Raises:
        ValueError: It is none of them; the message says which are close.
    """
    known = list(choices)
    if not isinstance(value, str) or value not in known:
        raise ValueError(
            f"{owner} does not know {argument}={value!r}. "
            f"{did_you_mean(value, known)}"
        )
    return value


def _refuse(
    wanted: str, value: Any, owner: str, argument: str, why: str
) -> None:
    raise ValueError(
        f"{owner} needs {wanted} as `{argument}`{why}. "
        f"Received: {argument}={value!r}."
    )
