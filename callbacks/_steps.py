"""Training steps whose size does not depend on the optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kprune.graph.values import read

_REMEMBERED = 0.999
"""Share of the largest change that is remembered after a step. Adamax's default."""


class NormalizedSteps:
    """Normalises what the model's optimizer does to some variables.

    After each training step, the change of each value is divided by its largest change
    so far, as in Adamax (Kingma and Ba, arXiv 1412.6980), and multiplied by a rate of
    its own. So the variables move by at most `rate` in a step, whatever the optimizer,
    its learning rate, and the scale of their gradients.

    Args:
        variables: The variables.
        largest: A variable for each of them, of the same shape, which holds the largest
            change so far.
    """

    def __init__(
        self,
        variables: Sequence[keras.Variable],
        largest: Sequence[keras.Variable],
    ) -> None:
        self._pairs = list(zip(variables, largest, strict=True))
        self.start()

    def start(self) -> None:
        """Take the values as they are, for example when an epoch begins."""
        self._before = [np.array(read(variable)) for variable, _ in self._pairs]

    def normalize(self, model: Any, rate: float) -> None:
        """Rescale the last step.

        Args:
            model: The model in training.
            rate: Largest change of a value.
        """
        if keras.config.backend() == "jax":
            model.jax_state_sync()  # In `fit`, variables are behind the state.
        for n, (variable, memory) in enumerate(self._pairs):
            before = self._before[n]
            change = np.array(read(variable)) - before
            largest = np.maximum(_REMEMBERED * read(memory), np.abs(change))
            share = np.divide(
                change, largest, out=np.zeros_like(change), where=largest > 0
            )
            memory.assign(largest)
            self._before[n] = before + rate * share
            variable.assign(self._before[n])
