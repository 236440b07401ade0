"""The callback that holds a recipe to its number of epochs."""

from __future__ import annotations

import logging
from typing import Any

import keras

_log = logging.getLogger("kprune")


class Promise(keras.callbacks.Callback):
    """Says so if a run is not as long as the recipe was told."""

    def __init__(self, recipe: str, epochs: int) -> None:
        super().__init__()
        self._recipe = recipe
        self._epochs = epochs

    def on_train_begin(self, logs: Any = None) -> None:
        epochs = self.params.get("epochs")
        if epochs != self._epochs:
            _log.warning(
                "Recipe '%s' was made for %d epochs, but fit has epochs=%s: its "
                "rounds do not spread as meant, and its target may not be reached. "
                "Make it with kprune.recipe('%s', ..., epochs=%s).",
                self._recipe,
                self._epochs,
                epochs,
                self._recipe,
                epochs,
            )
