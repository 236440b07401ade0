"""Gradients on any backend, without changing the model.

Keras has no backend-independent gradient function. But `train_on_batch` works on
every backend and passes the gradients to the optimizer, so a second model over
the same layers gets an optimizer that records them instead of applying them.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops
from keras.src.losses.loss import unscale_loss_for_distribution

from kprune.masking.devices import undivided

LOSS_SCALE = 2.0**12
"""First loss scale tried with mixed_float16, to avoid underflow."""


class Recorder(keras.optimizers.Optimizer):
    """An optimizer that records the gradients and changes no weights.

    Args:
        loss_scale: Factor on the loss, which keeps float16 gradients from
            vanishing.
    """

    def __init__(self, loss_scale: float = 1.0) -> None:
        super().__init__(learning_rate=0.0, name="recorder")
        self._scale = loss_scale
        self.gradients: list[Any] = []

    def build(self, variables: list[Any]) -> None:
        if self.built:
            return
        super().build(variables)
        self.gradients = [
            self.add_variable_from_reference(v, name="gradient")
            for v in variables
        ]

    def scale_loss(self, loss: Any) -> Any:
        # Within a tf.distribute.Strategy, Keras divides the loss by the number of
        # replicas, but here each replica sees the whole batch.
        return unscale_loss_for_distribution(loss) * self._scale

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        if trainable_variables is not None:
            self.build(list(trainable_variables))
        for gradient, slot in zip(grads, self.gradients, strict=True):
            if gradient is None:
                slot.assign(ops.zeros_like(slot))
            else:
                slot.assign(ops.convert_to_tensor(gradient, dtype=slot.dtype))
        self.iterations.assign_add(1)


class InferenceModel(keras.Model):
    """A model that always runs in inference mode, without added losses."""

    def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        return super().call(inputs, training=False, mask=mask)

    @property
    def losses(self) -> list[Any]:
        return []


class GradientProbe:
    """Gradients of a compiled model's loss with respect to all its weights.

    The model runs in inference mode. With batch statistics, scaling a filter in
    front of a BatchNormalization does not change the loss, so weight times
    gradient would sum to 0. Weight penalties are excluded, frozen layers are
    included.

    Args:
        model: A compiled functional model.

    Example:

    ```python
    probe = GradientProbe(model)
    gradients = probe(x, y)
    gradients[id(model.get_layer("conv1").kernel)]
    ```
    """

    def __init__(self, model: keras.Model) -> None:
        self.loss = model.loss
        self._user_model: Callable[[], Any] = weakref.ref(model)
        inputs, outputs = structures(model)
        self._probe = InferenceModel(
            inputs=inputs, outputs=outputs, name="probe"
        )
        self._variables: list[Any] = []
        layers = model._flatten_layers()
        float16 = any(layer.compute_dtype == "float16" for layer in layers)
        self._scale = LOSS_SCALE if float16 else 1.0

    def _compile(self) -> None:
        model = self._user_model()
        self._probe.compile(
            optimizer=Recorder(self._scale),
            loss=model.loss,
            loss_weights=model._compile_loss._user_loss_weights,
            jit_compile=model.jit_compile,
            run_eagerly=model.run_eagerly,
            auto_scale_loss=False,
        )

    def __call__(
        self, x: Any, y: Any, sample_weight: Any = None
    ) -> dict[int, np.ndarray]:
        """Return the gradients of the mean loss of one batch.

        Args:
            x: Inputs, as for `train_on_batch`.
            y: Targets.
            sample_weight: Weights of the samples.

        Returns:
            `id(variable)` -> gradient, for each weight.
        """
        with unchanged(self._user_model()):
            # Keras fixes the trainable weights when it compiles a model.
            if not self._probe.compiled:
                self._compile()
            while True:
                gradients = self._record(x, y, sample_weight)
                finite = all(np.isfinite(g).all() for g in gradients.values())
                if finite or self._scale <= 1.0:
                    return gradients
                self._scale = max(1.0, self._scale / 16)
                self._compile()

    def _record(
        self, x: Any, y: Any, sample_weight: Any
    ) -> dict[int, np.ndarray]:
        recorder = self._probe.optimizer
        if not recorder.built:
            self._variables = list(self._probe.trainable_variables)
            recorder.build(self._variables)
        with undivided():
            self._probe.train_on_batch(x, y, sample_weight=sample_weight)
        return {
            id(variable): _numpy(gradient) / self._scale
            for variable, gradient in zip(
                self._variables, recorder.gradients, strict=True
            )
        }


@contextlib.contextmanager
def unchanged(model: Any) -> Iterator[None]:
    """Return a context in which all weights are trainable.

    Afterwards the `trainable` flags and all other state are restored.
    """
    variables = {id(v): v for v in [*model.variables, *model.metrics_variables]}
    with trainable(model):
        state = [(v, _numpy(v)) for v in variables.values() if not v.trainable]
        try:
            yield
        finally:
            for variable, value in state:
                if not np.array_equal(_numpy(variable), value, equal_nan=True):
                    variable.assign(value)


@contextlib.contextmanager
def trainable(model: Any) -> Iterator[None]:
    """Return a context in which all weights are trainable; other state is not."""
    layers = list(model._flatten_layers())
    flags = [layer.trainable for layer in layers]
    variables = {id(v): v for v in [*model.variables, *model.metrics_variables]}
    variable_flags = [(v, v.trainable) for v in variables.values()]
    for layer in layers:
        layer.trainable = True
    try:
        yield
    finally:
        # A layer's setter also sets its sublayers, so outer layers come first.
        for layer, flag in zip(layers, flags, strict=True):
            layer.trainable = flag
        for variable, flag in variable_flags:
            variable.trainable = flag


def structures(model: Any) -> tuple[Any, Any]:
    """Return the symbolic inputs and outputs in the model's own structure."""
    if isinstance(model, keras.Sequential):
        return model.inputs[0], model.outputs[0]
    return model.input, model.output


def _numpy(value: Any) -> np.ndarray:
    array = ops.convert_to_numpy(value)
    # Most NumPy functions do not support bfloat16.
    small = array.dtype.kind not in "fiub" or array.dtype.itemsize < 4
    return (
        array.astype("float32") if small and array.dtype.kind != "b" else array
    )
