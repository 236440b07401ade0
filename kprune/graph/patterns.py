"""Shared notation for names that differ only in numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Numbers, each with a following letter that ends a word, as in "block4b_conv".
_FIELD = re.compile(r"\d+[a-z](?=_|$)|\d+")
_LISTED = 3


def pattern(name: str) -> str:
    """Return the name with every number replaced by `#`.

    Example:

    ```python
    pattern("conv2_block1_out")  # "conv#_block#_out"
    ```
    """
    return _FIELD.sub("#", name)


def merged(names: Sequence[str]) -> str:
    """Write names of the same pattern as one, with varying numbers in braces.

    Args:
        names: Names with equal `pattern(name)`.

    Returns:
        Text that stands for exactly these names, or with `*` also for others.

    Example:

    ```python
    merged(["block1_conv", "block2_conv"])  # "block{1,2}_conv"
    ```
    """
    names = list(dict.fromkeys(names))
    columns = zip(*(_FIELD.findall(name) for name in names), strict=True)
    values = [list(dict.fromkeys(column)) for column in columns]
    combinations = 1
    for options in values:
        combinations *= len(options)
    words = iter(
        options[0]
        if len(options) == 1
        else _braces(options)
        if combinations == len(names)
        else "*"
        for options in values
    )
    return _FIELD.sub(lambda _: next(words), names[0])


def _braces(options: list[str]) -> str:
    if len(options) <= _LISTED:
        return "{" + ",".join(options) + "}"
    first, last = options[0], options[-1]
    if all(o.isdigit() for o in options):
        numbers = [int(o) for o in options]
        if numbers == list(range(numbers[0], numbers[-1] + 1)):
            return "{" + f"{first}..{last}" + "}"
    return "{" + f"{first},…,{last}" + "}"
