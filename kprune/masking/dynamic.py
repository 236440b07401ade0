"""Gates that depend on the sample: a branch predicts the salient channels."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from kprune.arguments import whole
from kprune.graph.values import read
from kprune.masking.gate import GroupGate
from kprune.masking.gate import TiedLayer

MOMENTUM = 0.9
"""Momentum of running means over samples."""

MOST = 1000.0
"""Upper limit of saliencies."""

LEAST = 1e-6
"""Least static value of a channel that is kept."""


class _Batch(threading.local):
    """What is known of the batch that passes; replicas have a thread each."""

    saliency: Any = None
    left = 0


@keras.saving.register_keras_serializable(package="kprune")
class DynamicGate(GroupGate):
    """A gate that predicts a saliency per sample and channel.

    The saliencies are `ReLU(W2 ReLU(W1 mean(x) / s) + b)`, where `x` is the input of
    the first layer that produces the group, the mean is over its positions, and `s`
    is the running root mean square of these means in training. The
    channels are multiplied with them where they are read; saliencies below
    `threshold` count as 0. Before the first training step, all saliencies are 1.

    Args:
        size: Number of channels of the group.
        group: The group's name.
        inputs: Number of channels of `x`.
        hidden: Number of units of `W1`.
        reads: How often a forward pass through the model reads the gate.
        **kwargs: See `keras.layers.Layer`.
    """

    why_not_static = (
        "has gates that depend on the input: each sample uses other channels, so "
        "no smaller model computes the same. kprune.masking.close_gates(masked) "
        "makes a static model, in which each gate is its mean over the training "
        "samples."
    )

    def __init__(
        self,
        size: int,
        group: str = "",
        inputs: int = 1,
        hidden: int = 1,
        reads: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(size, group, **kwargs)
        self.inputs = whole(inputs, "DynamicGate", "inputs", of="channels")
        self.hidden = whole(hidden, "DynamicGate", "hidden", of="units")
        self.reads = whole(reads, "DynamicGate", "reads")
        self.squeeze = keras.layers.Dense(
            hidden,
            activation="relu",
            use_bias=False,
            kernel_initializer="he_normal",
        )
        self.excite = keras.layers.Dense(
            size,
            activation="relu",
            # Near the bias of 1, so that a trained model goes on as it was.
            kernel_initializer=keras.initializers.VarianceScaling(
                0.02, "fan_in", "truncated_normal"
            ),
            bias_initializer="ones",
        )
        self.squeeze.build((None, inputs))
        self.excite.build((None, hidden))
        self.threshold = self._state("threshold", -1.0)
        # Share of the channels that an average sample uses. A variable, because a
        # changed attribute would need a new trace.
        self.used = self._state("used", 1.0)
        self.mean = self._state("mean", 1.0, size)
        self.scale = self._state("scale", 0.0)
        self.loss_level = self._state("loss_level", 0.0)
        # Called with all saliencies of a batch, before the threshold is applied.
        self.witness: Callable[[Any], None] | None = None
        self._batch = _Batch()
        self.built = True

    def learned(self) -> list[keras.Variable]:
        return [*self.squeeze.trainable_weights, *self.excite.trainable_weights]

    def look(self, inputs: Any, training: bool | None) -> None:
        """Predict the saliencies of a batch, for the layers that read the group.

        Args:
            inputs: Tensor of shape `(samples, ..., channels)`.
            training: Whether this is a training step.
        """
        places = tuple(range(1, len(inputs.shape) - 1))
        means = ops.mean(inputs, axis=places) if places else inputs
        first = self.scale.value <= 0
        means = self._scaled(ops.cast(means, self.scale.dtype), training)
        hidden = self.excite(self.squeeze(means))
        saliency = ops.minimum(ops.cast(hidden, self.scale.dtype), MOST)
        saliency = ops.where(self.scale.value > 0, saliency, 1.0)
        self._batch.saliency, self._batch.left = saliency, self.reads
        if self.witness is not None:
            self.witness(saliency)
        if training:
            batch = ops.stop_gradient(ops.mean(saliency, axis=0))
            old = ops.where(first, batch, self.mean.value)
            self.mean.assign(old + (1 - MOMENTUM) * (batch - old))
            self.threshold.assign(self._moved(ops.stop_gradient(saliency)))

    def _moved(self, saliency: Any) -> Any:
        """Return the threshold, moved to where a batch uses its share of channels.

        A running quantile follows saliencies that drift. The mean saliencies of the
        channels would not do: if samples differ more than channels, many channels
        are below such a threshold half of the time.
        """
        ordered = ops.sort(ops.reshape(saliency, (-1,)))
        count = ops.cast(ops.shape(ordered)[0], self.used.dtype)
        skipped = ops.round((1.0 - self.used.value) * count)
        limit = ops.take(ordered, ops.cast(skipped, "int32"))
        old = self.threshold.value
        moved = ops.where(old < 0, limit, old + (1 - MOMENTUM) * (limit - old))
        return ops.where(self.used.value < 1, moved, -1.0)

    def _scaled(self, means: Any, training: bool | None) -> Any:
        """Divide by the running size of means: pixels of 0 to 255 are too large."""
        scale = self.scale.value
        if training:
            size = ops.sqrt(ops.mean(ops.square(ops.stop_gradient(means))))
            moved = scale + (1 - MOMENTUM) * (size - scale)
            scale = ops.where(scale > 0, moved, size)
            self.scale.assign(scale)
        return means / ops.where(scale > 0, scale, 1.0)

    def values(self, step: Any, alive: Any, training: bool | None) -> Any:
        if self._batch.left < 1:
            raise RuntimeError(
                f"Layers read the channels of '{self.group}' before their saliencies "
                "are predicted. Call the whole model: parts of a model with dynamic "
                "gates cannot run alone."
            )
        saliency = self._batch.saliency
        self._batch.left -= 1
        if not self._batch.left:
            # Do not keep a tensor of a traced step.
            self._batch.saliency = None
        open_ = saliency >= self.threshold.value
        return saliency * ops.cast(open_, saliency.dtype)

    def static(self, alive: np.ndarray) -> np.ndarray:
        mean = np.where(alive, read(self.mean), -np.inf)
        count = max(1, round(float(read(self.used)) * self.size))
        kept = alive.copy()
        kept[np.argsort(-mean, kind="stable")[count:]] = False
        return np.where(kept, np.maximum(mean, LEAST), 0.0)

    def limit(self, count: int) -> None:
        """Let an average sample use so many channels, from the next training step.

        Args:
            count: Number of channels.
        """
        self.used.assign(min(max(count, 1), self.size) / self.size)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the branch per sample."""
        return self.hidden * (self.inputs + self.size)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "inputs": self.inputs,
            "hidden": self.hidden,
            "reads": self.reads,
        }


@keras.saving.register_keras_serializable(package="kprune")
class GateSource(TiedLayer):
    """Passes a layer's input to a dynamic gate and returns it unchanged.

    Args:
        gate: The `DynamicGate`.
        **kwargs: See `keras.layers.Layer`.
    """

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        self.tied.gate.look(inputs, training)
        return inputs
