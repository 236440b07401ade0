"""Penalties for a part of training."""

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
from kprune.callbacks._losses import AddedLoss
from kprune.masking import trained_part
from kprune.parts import Part
from kprune.regularizers import attach
from kprune.regularizers import detach
from kprune.regularizers.attaching import attached
from kprune.regularizers.shrinkage import Shrinkage
from kprune.regularizers.shrinkage import summed_rates

_log = logging.getLogger("kprune")

_POINTS = 100
"""Number of steps at which a learning rate schedule is evaluated."""


class RegularizeCallback(keras.callbacks.Callback, Part):
    """Penalises the kernels of a model in the first epochs.

    The penalty acts before epoch `until`, and is removed then and when training ends.
    It replaces penalties attached by `kprune.regularizers.attach`; the layers' own
    regularizers stay. List this callback before those that prune. A resumed run
    continues unchanged, except with `shrinkage`, which measures the kernels again.

    Args:
        regularizer: A `keras.regularizers.Regularizer`, for example
            `kprune.regularizers.HierarchicalGroupSparsity()`.
        until: The first epoch, from 0, without the penalty; `None` for the whole of
            training.
        layers: See `kprune.regularizers.attach`.
        shrinkage: Share of its norm, between 0 and 1, that each kernel loses in these
            epochs if only the penalty acts; the loss counteracts it. With SGD, this
            sets the strength of each kernel when the penalty begins, from the learning
            rates of all steps and the kernel, and the regularizer's `strength` is
            ignored. Other optimizers normalise gradients, so that no strength has this
            effect: they use `strength`. So does SGD, with a warning, if `fit` does not
            know the number of steps per epoch. Defaults to `None`: use `strength`.

    Raises:
        ValueError: At construction, if `until` is not an integer above 0, or
            `shrinkage` is given for a regularizer without a strength. When `fit`
            begins, if the penalty cannot shrink a kernel; see also
            `kprune.regularizers.attach`.

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
                    f"{regularizer!r} has no attribute `strength`. Omit `shrinkage`."
                )
        self.shrinkage = shrinkage
        self._acts = False
        self._added: AddedLoss | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        require_fit(self)
        self._acts = False

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        acts = self.until is None or epoch < self.until
        if acts and not self._acts:
            detach(trained_part(self.model))
            attach(trained_part(self.model), self._penalty(), self.layers)
            if trained_part(self.model) is not self.model:
                # A Distiller's loss does not include its student's penalties.
                self._added = AddedLoss(self, self._sum)
                self._added.attach()
        elif not acts:
            self._detach()
        self._acts = acts

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        found = attached(trained_part(self.model)) if self._acts else []
        if found and not any(v.regularizer.used for _, v in found):
            raise ValueError(
                f"{self.regularizer!r} has no effect: the train_step of "
                f"{type(self.model).__name__} '{self.model.name}' leaves penalties "
                "out. Take the loss from self.compute_loss(x=x, y=y, y_pred=y_pred), "
                "or add sum(self.losses)."
            )

    def on_train_end(self, logs: Any = None) -> None:
        self._detach()

    def _detach(self) -> None:
        detach(trained_part(self.model))
        if self._added is not None:
            self._added.detach()
            self._added = None

    def _sum(self, x: Any, y: Any, y_pred: Any, weight: Any) -> Any:
        return sum(
            v.regularizer.alone(v)
            for _, v in attached(trained_part(self.model))
        )

    def _penalty(self) -> Any:
        """Return the regularizer, with its strength set by `shrinkage` if possible."""
        if self.shrinkage is None:
            return self.regularizer
        if not self.params.get("steps"):
            _log.warning(
                "The strength of %r does not follow the learning rates, because `fit` "
                "does not know the number of steps per epoch. Pass steps_per_epoch.",
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
