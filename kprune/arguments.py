"""Checks of arguments, with uniform error messages."""

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
        name: The received name.
        known: The accepted names.

    Returns:
        For example `"Did you mean 'l1'? Known names: 'l1', 'l2'."`.
    """
    names = [str(choice) for choice in known]
    hint = suggestion(name, names)
    return f"{hint}Known names: {', '.join(map(repr, names)) or 'none'}."


def suggestion(name: object, known: Iterable[str]) -> str:
    """Return a question with close matches, or an empty string without any.

    Args:
        name: The received name.
        known: The accepted names.

    Returns:
        For example `"Did you mean 'l1'? "`.
    """
    names = [str(choice) for choice in known]
    close = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
    return f"Did you mean {' or '.join(map(repr, close))}? " if close else ""


def absent(path: str | os.PathLike[str], what: str = "file") -> Exception:
    """Return an error for a path that does not exist, with close matches.

    Args:
        path: The received path.
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
    """Return a real number as a float, and NaN for anything else, including bools."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return float(value) if real else math.nan  # type: ignore[arg-type]


def name_of(function: Any) -> str:
    """Return the name of a function for messages."""
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
    """Return a whole number after checking it.

    Args:
        value: The received value.
        owner: Class or function that received it.
        argument: Name of the argument.
        least: Smallest accepted number.
        of: What it counts, for the message: `"epochs"`.
        why: End of the message's first sentence, for example
            `": a group without channels cuts the model in two"`.
        exact: Whether to reject 2.0 too, for values that are used unchanged.

    Raises:
        ValueError: If it is not a whole number, or is below `least`.

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
    """Return a whole number above 0, or `None` for all, after checking it.

    Args:
        value: The received value.
        owner: Class or function that received it.
        argument: Name of the argument.
        of: What it counts, for the message: `"samples"`.

    Raises:
        ValueError: If it is neither.
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
    """Return a finite number after checking it.

    Args:
        value: The received value.
        owner: Class or function that received it.
        argument: Name of the argument.
        least: Smallest accepted number.
        above: Number that it must exceed.
        why: See `whole`.

    Raises:
        ValueError: If it is not a finite number, or is too small.
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
    """Return a number between 0 and 1 after checking it.

    Args:
        value: The received value.
        owner: Class or function that received it.
        argument: Name of the argument.
        zero: Whether to accept 0.
        one: Whether to accept 1.
        why: See `whole`.

    Raises:
        ValueError: If it is not a number, or is out of range.
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
    """Return a Keras model after checking its type.

    Args:
        value: The received value.
        owner: Function that received it.
        argument: Name of the argument.

    Raises:
        TypeError: If it is not a Keras model. The message says what to pass.
    """
    import keras

    if isinstance(value, keras.Model):
        return value
    way = ""
    if isinstance(value, str | os.PathLike):
        way = " Load the file first: kprune.load(path)."
    elif isinstance(getattr(value, "masked", None), keras.Model):
        way = f" Pass the model itself, `{type(value).__name__}.masked`."
    elif isinstance(value, keras.layers.Layer):
        way = " Call the layer in a model: keras.Model(x, layer(x))."
    raise TypeError(
        f"{owner} needs a keras.Model as `{argument}`. Received: {argument}="
        f"{reprlib.repr(value)} (of type {type(value).__name__}).{way}"
    )


def choice(
    value: Any, owner: str, argument: str, choices: Iterable[str]
) -> str:
    """Return a name after checking that it is one of `choices`.

    Args:
        value: The received value.
        owner: Class or function that received it.
        argument: Name of the argument.
        choices: The accepted names.

    Raises:
        ValueError: If it is none of them. The message suggests close ones.
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
