"""Penalties that act for a part of training."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras

from kprune.arguments import whole
from kprune.parts import Part
from kprune.regularizers import attach
from kprune.regularizers import detach


class RegularizeCallback(keras.callbacks.Callback, Part):
    """Penalises the kernels of a model in its first epochs.

    The penalty is there from the first epoch on, and gone from epoch `until`
    on, and when training has ended. It takes the place of what
    `kprune.regularizers.attach` attached before; the layers' own regularizers
    stay. List this callback before those that prune. A run that is resumed
    goes on as it would have.

    Args:
        regularizer: A `keras.regularizers.Regularizer`, for example
            `kprune.regularizers.HierarchicalGroupSparsity()`.
        until: The epoch, from 0, that is the first without the penalty; `None`
            for the whole of training.
        layers: See `kprune.regularizers.attach`.

    Raises:
        ValueError: At construction, `until` is not a whole number above 0. When
            `fit` begins: see `kprune.regularizers.attach`.

    Example:

    ```python
    regularizer = kprune.regularizers.HierarchicalGroupSparsity()
    masked.fit(train, epochs=30, callbacks=[
        RegularizeCallback(regularizer, until=20),
        PruneCallback(schedule=kprune.OneShot(20)),
    ])
    ```
    """

    def __init__(
        self,
        regularizer: Any,
        until: int | None = None,
        layers: Iterable[Any] | None = None,
    ) -> None:
        super().__init__()
        if until is not None:
            owner, why = type(self).__name__, ", or None"
            whole(until, owner, "until", of="epochs", why=why)
        self.regularizer = regularizer
        self.until = until
        self.layers = layers
        self._acts = False

    def on_train_begin(self, logs: Any = None) -> None:
        self._acts = False

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        acts = self.until is None or epoch < self.until
        if acts and not self._acts:
            detach(self.model)
            attach(self.model, self.regularizer, self.layers)
        elif not acts:
            detach(self.model)
        self._acts = acts

    def on_train_end(self, logs: Any = None) -> None:
        detach(self.model)
