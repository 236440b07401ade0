"""Penalties that act for a part of training."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras.ops import convert_to_numpy

from kprune.arguments import number
from kprune.arguments import whole
from kprune.callbacks._fitting import require_fit
from kprune.masking import trained_part
from kprune.parts import Part
from kprune.regularizers import attach
from kprune.regularizers import detach

_log = logging.getLogger("kprune")

_POINTS = 100
"""Steps at which a learning rate schedule is looked at."""


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
        sum_of_rates: Sum of the learning rates of all steps with the penalty
            that the regularizer's `strength` is meant for. How far a penalty
            shrinks weights depends on the product of both, so in a run with
            another sum the strength is scaled to keep it; it stays as it is,
            with a warning, where `fit` does not know the steps of an epoch.
            Defaults to `None`: the strength stays as it is.

    Raises:
        ValueError: At construction, `until` is not a whole number above 0, or
            `sum_of_rates` is given for a regularizer without a strength. When
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
        sum_of_rates: float | None = None,
    ) -> None:
        super().__init__()
        if until is not None:
            owner, why = type(self).__name__, ", or None"
            whole(until, owner, "until", of="epochs", why=why)
        self.regularizer = regularizer
        self.until = until
        self.layers = layers
        if sum_of_rates is not None:
            number(sum_of_rates, type(self).__name__, "sum_of_rates", above=0)
            if getattr(regularizer, "strength", None) is None:
                raise ValueError(
                    "`sum_of_rates` scales the strength of a regularizer, but "
                    f"{regularizer!r} has no attribute `strength`. Leave it out."
                )
        self.sum_of_rates = sum_of_rates
        self._scaled: Any = None
        self._acts = False

    def on_train_begin(self, logs: Any = None) -> None:
        require_fit(self)
        self._acts = False
        self._scaled = self.regularizer
        if self.sum_of_rates is None:
            return
        if not self.params.get("steps"):
            _log.warning(
                "The strength of %r is not scaled to the learning rates: `fit` does "
                "not know how many steps an epoch has. Pass steps_per_epoch.",
                self.regularizer,
            )
            return
        config = self.regularizer.get_config()
        config["strength"] *= self.sum_of_rates / self._rates()
        self._scaled = type(self.regularizer).from_config(config)
        _log.info("The penalty has strength %.3g.", config["strength"])

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        acts = self.until is None or epoch < self.until
        if acts and not self._acts:
            detach(trained_part(self.model))
            attach(trained_part(self.model), self._scaled, self.layers)
        elif not acts:
            detach(trained_part(self.model))
        self._acts = acts

    def on_train_end(self, logs: Any = None) -> None:
        detach(trained_part(self.model))

    def _rates(self) -> float:
        """Return the sum of the learning rates of all steps with the penalty."""
        steps, epochs = self.params["steps"], self.params["epochs"]
        count = steps * (epochs if self.until is None else self.until)
        rate = self.model.optimizer.learning_rate
        schedule = self.model.optimizer._learning_rate
        if isinstance(
            schedule, keras.optimizers.schedules.LearningRateSchedule
        ):
            at = np.linspace(0, count - 1, min(count, _POINTS)).round()
            values = [float(convert_to_numpy(schedule(step))) for step in at]
            return count * float(np.mean(values))
        return count * float(convert_to_numpy(rate))
