"""Penalties for a part of training."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras.ops import convert_to_numpy

from kprune.arguments import share
from kprune.arguments import whole
from kprune.callbacks._fitting import companions
from kprune.callbacks._fitting import completed
from kprune.callbacks._fitting import require_fit
from kprune.callbacks._fitting import undo_if_interrupted
from kprune.callbacks._fitting import undo_interrupted
from kprune.callbacks._losses import AddedLoss
from kprune.masking import trained_part
from kprune.masking.slots import accumulation
from kprune.masking.slots import base_optimizers
from kprune.parts import Part
from kprune.regularizers import attach
from kprune.regularizers.attaching import attached
from kprune.regularizers.attaching import release
from kprune.regularizers.shrinkage import Shrinkage
from kprune.regularizers.shrinkage import summed_rates

_log = logging.getLogger("kprune")

_POINTS = 100
"""Number of steps at which a learning rate schedule is evaluated."""


class RegularizeCallback(keras.callbacks.Callback, Part):
    """Penalises the kernels of a model in the first epochs.

    The penalty acts before epoch `until`, and is removed then and when training ends.
    It replaces penalties attached by `kprune.regularizers.attach`; the layers' own
    regularizers stay. Several callbacks can penalise different `layers`. List this
    callback before those that prune. A resumed run continues unchanged, except with
    `shrinkage`, which measures the kernels again.

    Args:
        regularizer: A `keras.regularizers.Regularizer`, for example
            `kprune.regularizers.HierarchicalGroupSparsity()`.
        until: The first epoch, from 0, without the penalty; `None` for the whole of
            training.
        layers: See `kprune.regularizers.attach`.
        shrinkage: Share of its norm, between 0 and 1, that each kernel loses until then
            if only the penalty acts; the loss counteracts it. Epochs that later calls
            of `fit` run count too. With SGD, this sets the strength of each kernel when
            the penalty begins, from the learning rates of all steps and the kernel, and
            the regularizer's `strength` is ignored. Other optimizers normalise
            gradients, so that no strength has this effect: they use `strength`. So does
            SGD, with a warning, if `fit` does not know the number of steps per epoch,
            or if it is one of several in a `MultiOptimizer`. Defaults to `None`: use
            `strength`.

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
        self._acts: bool | None = None
        self._added: AddedLoss | None = None
        self._attached: list[tuple[Any, Any]] = []
        self._penalties: dict[int, Any] = {}

    def on_train_begin(self, logs: Any = None) -> None:
        require_fit(self)
        undo_interrupted(self)
        self._acts = None
        self._attached = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        acts = self.until is None or epoch < self.until
        model = trained_part(self.model)
        if self._acts is None:
            release(model, self._others(model))
        if acts and not self._acts:
            attach(model, self._penalty(epoch), self.layers)
            self._attached = self._others(model)
            self._penalties = {id(v): v.regularizer for _, v in self._attached}
            if model is not self.model:
                # A Distiller's loss does not include its student's penalties.
                self._added = AddedLoss(self, self._sum)
                self._added.attach()
            undo_if_interrupted(
                self,
                functools.partial(
                    _detach, model, self._attached, self._penalties, self._added
                ),
            )
        elif not acts:
            self._detach()
        self._acts = acts

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        found = self._attached
        if found and not any(v.regularizer.used for _, v in found):
            raise ValueError(
                f"{self.regularizer!r} has no effect: the train_step of "
                f"{type(self.model).__name__} '{self.model.name}' leaves penalties "
                "out. Take the loss from self.compute_loss(x=x, y=y, y_pred=y_pred), "
                "or add sum(self.losses)."
            )

    def on_train_end(self, logs: Any = None) -> None:
        self._detach()
        if self._acts is None:  # The run was complete: `fit` had no epoch.
            model = trained_part(self.model)
            release(model, self._others(model))

    def _detach(self) -> None:
        completed(self)
        model = trained_part(self.model)
        _detach(model, self._attached, self._penalties, self._added)
        self._attached = []
        self._added = None

    def _others(self, model: keras.Model) -> list[tuple[Any, Any]]:
        """Return what is attached, except by other callbacks of this `fit`."""
        theirs = {
            id(variable)
            for other in companions(self)
            if isinstance(other, RegularizeCallback) and other is not self
            for _, variable in other._attached
        }
        return [pair for pair in attached(model) if id(pair[1]) not in theirs]

    def _sum(self, x: Any, y: Any, y_pred: Any, weight: Any) -> Any:
        return sum(v.regularizer.alone(v) for _, v in self._attached)

    def _penalty(self, epoch: int) -> Any:
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
        if len(base_optimizers(self.model.optimizer)) != 1:
            _log.warning(
                "The strength of %r does not follow the learning rates, because "
                "MultiOptimizer has several.",
                self.regularizer,
            )
            return self.regularizer
        rates = summed_rates(self.model.optimizer, self._rates(epoch))
        if not rates:
            return self.regularizer
        return Shrinkage(self.regularizer, self.shrinkage, rates)

    def _rates(self, epoch: int) -> list[float]:
        """Return the learning rates of all steps with the penalty, from an epoch on."""
        (optimizer,) = base_optimizers(self.model.optimizer)
        apart = accumulation(self.model.optimizer)
        last = self.params["epochs"] if self.until is None else self.until
        count = -(-self.params["steps"] * (last - epoch) // apart)
        schedule = optimizer._learning_rate
        if isinstance(
            schedule, keras.optimizers.schedules.LearningRateSchedule
        ):
            # Keras counts batches here, also those that are only accumulated.
            begun = int(convert_to_numpy(optimizer._iterations))
            at = np.linspace(0, count - 1, min(count, _POINTS)).round()
            values = [
                float(convert_to_numpy(schedule(begun + apart * int(step))))
                for step in at
            ]
            return np.interp(np.arange(count), at, values).tolist()
        return [float(convert_to_numpy(optimizer.learning_rate))] * count


def _detach(
    model: keras.Model,
    attached: list[tuple[Any, Any]],
    penalties: dict[int, Any],
    added: AddedLoss | None,
) -> None:
    """Detach penalties, but for those that somebody else has replaced."""
    mine = [
        (layer, variable)
        for layer, variable in attached
        if variable.regularizer is penalties[id(variable)]
    ]
    release(model, mine)
    if added is not None:
        added.detach()
