"""Penalties that act for a part of training."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras.ops import convert_to_numpy

from kprune.arguments import share
from kprune.arguments import whole
from kprune.callbacks._fitting import require_fit
from kprune.masking import trained_part
from kprune.parts import Part
from kprune.regularizers import attach
from kprune.regularizers import detach
from kprune.regularizers.shrinkage import Shrinkage
from kprune.regularizers.shrinkage import summed_rates

_log = logging.getLogger("kprune")

_POINTS = 100
"""Steps at which a learning rate schedule is looked at."""


class RegularizeCallback(keras.callbacks.Callback, Part):
    """Penalises the kernels of a model in its first epochs.

    The penalty is there from the first epoch on, and gone from epoch `until`
    on, and when training has ended. It takes the place of what
    `kprune.regularizers.attach` attached before; the layers' own regularizers
    stay. List this callback before those that prune. A run that is resumed
    goes on as it would have, but for `shrinkage`, which measures the kernels anew.

    Args:
        regularizer: A `keras.regularizers.Regularizer`, for example
            `kprune.regularizers.HierarchicalGroupSparsity()`.
        until: The epoch, from 0, that is the first without the penalty; `None`
            for the whole of training.
        layers: See `kprune.regularizers.attach`.
        shrinkage: Share of its length that each kernel is to lose in these
            epochs if only the penalty acts, between 0 and 1; the loss resists.
            How far a penalty shrinks kernels depends on its strength, on the
            learning rates of all steps, and on the kernels: with SGD, each
            kernel's strength is set for it when the penalty begins, whatever
            `strength` says. Other optimizers divide by the size of gradients,
            which no strength outweighs in the same way: there, and with a
            warning where `fit` does not know the steps of an epoch, `strength`
            holds. Defaults to `None`: `strength` holds.

    Raises:
        ValueError: At construction, `until` is not a whole number above 0, or
            `shrinkage` is given for a regularizer without a strength. When
            `fit` begins: see `kprune.regularizers.attach`; or no strength
            shrinks a kernel by this penalty.

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
        shrinkage: float | None = None,
    ) -> None:
        super().__init__()
        if until is not None:
            owner, why = type(self).__name__, ", or None"
            whole(until, owner, "until", of="epochs", why=why)
        self.regularizer = regularizer
        self.until = until
        self.layers = layers
        if shrinkage is not None:
            share(shrinkage, type(self).__name__, "shrinkage")
            if getattr(regularizer, "strength", None) is None:
                raise ValueError(
                    "`shrinkage` sets the strength of a regularizer, but "
                    f"{regularizer!r} has no attribute `strength`. Leave it out."
                )
        self.shrinkage = shrinkage
        self._acts = False

    def on_train_begin(self, logs: Any = None) -> None:
        require_fit(self)
        self._acts = False

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        acts = self.until is None or epoch < self.until
        if acts and not self._acts:
            detach(trained_part(self.model))
            attach(trained_part(self.model), self._penalty(), self.layers)
        elif not acts:
            detach(trained_part(self.model))
        self._acts = acts

    def on_train_end(self, logs: Any = None) -> None:
        detach(trained_part(self.model))

    def _penalty(self) -> Any:
        """Return the regularizer with the strengths that it is to have."""
        if self.shrinkage is None:
            return self.regularizer
        if not self.params.get("steps"):
            _log.warning(
                "The strength of %r does not follow the learning rates: `fit` does "
                "not know how many steps an epoch has. Pass steps_per_epoch.",
                self.regularizer,
            )
            return self.regularizer
        rates = summed_rates(self.model.optimizer, self._rates())
        if rates is None:
            return self.regularizer
        return Shrinkage(self.regularizer, self.shrinkage, rates)

    def _rates(self) -> list[float]:
        """Return the learning rates of all steps with the penalty."""
        optimizer = self.model.optimizer
        steps, epochs = self.params["steps"], self.params["epochs"]
        count = steps * (epochs if self.until is None else self.until)
        count = -(-count // (optimizer.gradient_accumulation_steps or 1))
        schedule = optimizer._learning_rate
        if isinstance(
            schedule, keras.optimizers.schedules.LearningRateSchedule
        ):
            at = np.linspace(0, count - 1, min(count, _POINTS)).round()
            values = [float(convert_to_numpy(schedule(step))) for step in at]
            return np.interp(np.arange(count), at, values).tolist()
        return [float(convert_to_numpy(optimizer.learning_rate))] * count
