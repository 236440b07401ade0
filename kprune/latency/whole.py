"""A runtime's estimate for the whole model at any widths."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kprune.latency.conversion import Conversion


class Whole:
    """Estimates a cost of the whole model, once for each choice of widths.

    Args:
        conversion: Conversion of the model.
        estimate: Function that takes the content of a `.tflite` file and returns the
            cost.
    """

    def __init__(
        self, conversion: Conversion, estimate: Callable[[bytes], float]
    ) -> None:
        self.conversion = conversion
        self._estimate = estimate
        self._known: dict[tuple[int, ...], float] = {}

    def __call__(self, kept: np.ndarray) -> float:
        """Return the cost at kept counts of shape `(groups,)`."""
        key = tuple(int(n) for n in kept)
        if key not in self._known:
            content = self.conversion.whole(np.array(key))
            self._known[key] = float(self._estimate(content))
        return self._known[key]
