"""What the backends of Keras do in ways of their own: gradients and steps."""

from __future__ import annotations

import keras
import numpy as np


def gradients(function, variables):
    """Gradients of the scalar `function()`, by the backend's own means.

    Args:
        function: Computes a scalar from `variables`, without arguments.
        variables: List of `keras.Variable`s.

    Returns:
        NumPy arrays, one per variable.
    """
    found = _BACKENDS[keras.config.backend()](function, variables)
    return [np.array(keras.ops.convert_to_numpy(g)) for g in found]


def _tensorflow(function, variables):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        value = function()
    return tape.gradient(value, [v.value for v in variables])


def _jax(function, variables):
    import jax

    def stateless(values):
        mapping = list(zip(variables, values, strict=True))
        with keras.StatelessScope(state_mapping=mapping):
            return function()

    return jax.grad(stateless)([v.value for v in variables])


def _torch(function, variables):
    import torch

    return torch.autograd.grad(function(), [v.value for v in variables])


_BACKENDS = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}


class OwnStep(keras.Model):
    """A model with a training step of its own, which logs `own_loss`."""

    def train_step(self, *args):
        return getattr(self, f"_{keras.config.backend()}_step")(*args)

    def _tensorflow_step(self, data):
        import tensorflow as tf

        x, y = data[:2]
        with tf.GradientTape() as tape:
            value = self.compute_loss(x, y, self(x, training=True))
        variables = self.trainable_variables
        self.optimizer.apply(tape.gradient(value, variables), variables)
        return {"own_loss": value}

    def _torch_step(self, data):
        import torch

        x, y = data[:2]
        self.zero_grad()
        value = self.compute_loss(x, y, self(x, training=True))
        value.backward()
        variables = self.trainable_variables
        with torch.no_grad():
            self.optimizer.apply([v.value.grad for v in variables], variables)
        return {"own_loss": value}

    def _jax_step(self, state, data):
        import jax

        trainable, others, optimizer, metrics = state
        x, y = data[:2]

        def loss(trainable, others):
            pred, others = self.stateless_call(
                trainable, others, x, training=True
            )
            return self.compute_loss(x, y, pred), others

        step = jax.value_and_grad(loss, has_aux=True)
        (value, others), grads = step(trainable, others)
        trainable, optimizer = self.optimizer.stateless_apply(
            optimizer, grads, trainable
        )
        return {"own_loss": value}, (trainable, others, optimizer, metrics)
