"""Names of classes, and their numbers."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence

import numpy as np

_TOLD = 10
"""Maximum number of classes that a note lists."""


def number_words(
    given: str, labels: Sequence[str], known: Sequence[str] = ()
) -> tuple[np.ndarray, tuple[str, ...] | None, tuple[str, ...]]:
    """Return targets for words: class indices, unless all are numbers.

    Args:
        given: Where the words are, for messages.
        labels: One word per sample.
        known: Classes of the samples to train on, whose numbers hold here too.

    Returns:
        Targets `(n,)`, the names of the classes or None, and notes for the user.

    Raises:
        ValueError: A class is not known.
    """
    numbers = all(map(is_number, labels))
    # Numbers stand for themselves, unless they are names of classes.
    if known and (not numbers or any(map(is_number, known))):
        check_classes(given, labels, known)
        y = np.array([known.index(label) for label in labels], "int64")
        return y, tuple(known), ()
    if numbers:
        y = np.array(list(map(float, labels)))
        whole = bool(np.all(y == np.trunc(y)))
        return y.astype("int64" if whole else "float32"), None, ()
    found, indices = np.unique(labels, return_inverse=True)
    classes = tuple(map(str, found))
    names = [f"{n} {name!r}" for n, name in enumerate(classes)]
    if len(names) > _TOLD:
        names[_TOLD - 2 : -1] = ["..."]
    note = (
        f"the labels of {given!r} are words, numbered in alphabetical order: "
        f"{', '.join(names)}"
    )
    return indices.astype("int64"), classes, (note,)


def check_classes(
    given: str, classes: Iterable[str], known: Sequence[str]
) -> None:
    """Raise if there are classes that the samples to train on lack.

    Args:
        given: Where the classes are, for the message.
        classes: Classes of these samples.
        known: Classes of the samples to train on.

    Raises:
        ValueError: A class is not known. The message names it.
    """
    other = sorted(set(classes) - set(known))
    if other:
        raise ValueError(
            f"{given!r} has {', '.join(map(repr, other))}, but the data to train on "
            f"has only the classes {', '.join(map(repr, known))}. Rename such "
            "classes as there, or leave their samples out."
        )


def is_number(cell: str) -> bool:
    """Return whether a word is a number."""
    try:
        float(cell)
    except ValueError:
        return False
    return True
