"""Write the current command line as text."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any


class CommandLine:
    """The current command line, from which suggestions are made.

    Args:
        words: Command and arguments, such as `("prune", model, out)`.
        options: Its options; None for those not given.
    """

    def __init__(
        self, words: Sequence[object], options: dict[str, Any]
    ) -> None:
        self._words = [str(word) for word in words]
        self.options = {k: v for k, v in options.items() if v is not None}

    def with_options(self, **changes: Any) -> str:
        """Return the command with some options changed; None removes an option."""
        given = {f"--{k.replace('_', '-')}": v for k, v in changes.items()}
        words = ["kprune", *self._words]
        for option, value in {**self.options, **given}.items():
            if value is True:
                words.append(option)
            elif isinstance(value, list):
                words += [word for one in value for word in (option, str(one))]
            elif value is not None:
                words += [option, str(value)]
        return shlex.join(words)

    def __str__(self) -> str:
        return self.with_options()
