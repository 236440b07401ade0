"""The callback that checks the number of epochs of a recipe."""

from __future__ import annotations

import logging
from typing import Any

import keras

_log = logging.getLogger("kprune")


class CheckEpochs(keras.callbacks.Callback):
    """Warns if `fit` runs another number of epochs than the recipe was made for.

    Args:
        recipe: Name of the recipe.
        epochs: Number of epochs that it was made for.
    """

    def __init__(self, recipe: str, epochs: int) -> None:
        super().__init__()
        self._recipe = recipe
        self._epochs = epochs

    def on_train_begin(self, logs: Any = None) -> None:
        epochs = self.params.get("epochs")
        if epochs != self._epochs:
            _log.warning(
                "Recipe '%s' was made for %d epochs, but fit has epochs=%s: its "
                "rounds are not spread as intended, and its target may be missed. "
                "Make it with kprune.recipe('%s', ..., epochs=%s).",
                self._recipe,
                self._epochs,
                epochs,
                self._recipe,
                epochs,
            )
