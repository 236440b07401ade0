"""What a runtime says of a whole model at any widths."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kprune.latency.conversion import Conversion


class Whole:
    """A number that is told of the whole model, once for all widths.

    Args:
        conversion: The model.
        tell: Function of a `.tflite` file.
    """

    def __init__(
        self, conversion: Conversion, tell: Callable[[bytes], float]
    ) -> None:
        self.conversion = conversion
        self._tell = tell
        self._known: dict[tuple[int, ...], float] = {}

    def __call__(self, kept: np.ndarray) -> float:
        """Return what is told at kept counts of shape `(groups,)`."""
        key = tuple(int(n) for n in kept)
        if key not in self._known:
            content = self.conversion.whole(np.array(key))
            self._known[key] = float(self._tell(content))
        return self._known[key]
