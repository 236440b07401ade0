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
    """

    def __init__(self, variables: Sequence[keras.Variable]) -> None:
        self._variables = list(variables)
        self.start()
        self._largest = [np.zeros_like(before) for before in self._before]

    def start(self) -> None:
        """Take the values as they are, for example when an epoch begins."""
        self._before = [np.array(read(v)) for v in self._variables]

    def normalize(self, model: Any, rate: float) -> None:
        """Rescale the last step.

        Args:
            model: The model in training.
            rate: Largest change of a value.
        """
        if keras.config.backend() == "jax":
            model.jax_state_sync()  # In `fit`, variables are behind the state.
        for n, variable in enumerate(self._variables):
            before = self._before[n]
            change = np.array(read(variable)) - before
            largest = np.maximum(_REMEMBERED * self._largest[n], np.abs(change))
            share = np.divide(
                change, largest, out=np.zeros_like(change), where=largest > 0
            )
            self._largest[n] = largest
            self._before[n] = before + rate * share
            variable.assign(self._before[n])
