"""Training with binary filters."""

from __future__ import annotations

import functools
import logging
from typing import Any

import keras

from kprune.binary import BinaryFilters
from kprune.binary import attach
from kprune.binary import detach
from kprune.callbacks._fitting import companions
from kprune.callbacks._fitting import completed
from kprune.callbacks._fitting import require_fit
from kprune.callbacks._fitting import restoring_after
from kprune.callbacks._fitting import undo_if_interrupted
from kprune.callbacks._fitting import undo_interrupted
from kprune.masking import filter_masks
from kprune.masking import trained_part
from kprune.masking.slots import shifting_copies
from kprune.parts import Part
from kprune.regularizers.attaching import compile_again

_log = logging.getLogger("kprune")

_STEPS = ("train", "test", "predict")


class BinarizeCallback(keras.callbacks.Callback, Part):
    """Trains a masked model with binary filters and shared scales.

    During `fit`, layers compute with binary kernels, and gradients pass through to the
    float weights. At the end, the weights are set to the binary values, so that
    `kprune.rebuild` returns a model of binary kernels. An interrupted run continues
    from any checkpoint, which holds the float weights: train it for one more epoch
    with this callback, or it is not binary. List this callback after those that prune
    and those that restore weights, such as `EarlyStopping`.

    Args:
        form: A `kprune.binary.BinaryFilters`. Defaults to blocks of 4 filters.

    Raises:
        ValueError: When `fit` begins, if the model is not wrapped, or has no kernel
            that can be binary.

    Example:

    ```python
    masked = kprune.wrap(model)
    masked.fit(train, epochs=30, callbacks=[BinarizeCallback()])
    kprune.export(masked, "model.binary")
    ```
    """

    def __init__(self, form: BinaryFilters | None = None) -> None:
        super().__init__()
        self.form = BinaryFilters() if form is None else form

    def on_train_begin(self, logs: Any = None) -> None:
        require_fit(self)
        undo_interrupted(self)
        undo_if_interrupted(self, functools.partial(self._abandon, self.model))
        attach(trained_part(self.model), self.form)
        compile_again(self.model, _STEPS)
        if restoring_after(self, companions(self)):
            _log.warning(
                "EarlyStopping will restore float weights after %s has made them "
                "binary. List it before.",
                type(self).__name__,
            )

    def on_train_end(self, logs: Any = None) -> None:
        completed(self)
        with shifting_copies(self.model.optimizer):
            detach(trained_part(self.model))
        compile_again(self.model, _STEPS)

    def _abandon(self, model: keras.Model) -> None:
        """Let layers compute with float kernels again, whose values stay."""
        for wrapper in filter_masks(trained_part(model)):
            for number, form in list(wrapper.forms.items()):
                if form is self.form:
                    del wrapper.forms[number]
        compile_again(model, _STEPS)
