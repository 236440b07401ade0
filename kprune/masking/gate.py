"""Gates: differentiable 0/1 masks of channels, one vector per group."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from keras.src.backend.common import global_state
from keras.src.saving import serialization_lib

from kprune.arguments import number
from kprune.arguments import whole
from kprune.graph.values import read

APART = 1_000_003
"""Distance between the seeds of groups, so that their draws never coincide."""


class GroupGate(keras.layers.Layer):
    """Base class of gates for a group of channels, which can be switched off.

    All layers that read the group share one object, so a residual stream has one
    gate, however many layers write and read it.

    Args:
        size: Number of channels of the group.
        group: The group's name.
        **kwargs: See `keras.layers.Layer`.
    """

    why_not_static = (
        "has active gates, which a rebuild would ignore. Turn them into masks "
        "first: kprune.masking.close_gates(masked)."
    )
    """Message: why a model with this gate has no compact model, and the remedy."""

    def __init__(self, size: int, group: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        owner = type(self).__name__
        self.size = whole(size, owner, "size", of="channels")
        self.group = group
        # Called with the gate's values every time a layer reads them.
        self.observer: Callable[[Any], None] | None = None
        # A variable, because a changed attribute would need a new trace.
        self.open = self._state("open", 1.0)

    @property
    def acts(self) -> bool:
        """Whether the gate is active. An inactive gate is 1."""
        return bool(read(self.open) > 0)

    @acts.setter
    def acts(self, value: bool) -> None:
        self.open.assign(float(value))

    def learned(self) -> list[keras.Variable]:
        """Return the variables that weight decay must leave alone."""
        return []

    def static(self, alive: np.ndarray) -> np.ndarray:
        """Return fixed values for the gate, of shape `(size,)`; 0 means removed.

        Args:
            alive: Booleans of shape `(size,)`: channels not removed by masks.
        """
        raise NotImplementedError

    def values(self, step: Any, alive: Any, training: bool | None) -> Any:
        """Return the gate's values.

        Args:
            step: Number of the training step, a scalar tensor.
            alive: Tensor of shape `(size,)`, 0 for channels removed by masks, or
                None.
            training: Whether this is a training step.

        Returns:
            Tensor of shape `(size,)`, or `(samples, size)` for dynamic gates.
        """
        raise NotImplementedError

    def call(
        self, step: Any, alive: Any = None, training: bool | None = None
    ) -> Any:
        values = self.values(step, alive, training)
        values = 1.0 + self.open.value * (values - 1.0)
        if self.observer is not None:
            self.observer(values)
        return values

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "size": self.size, "group": self.group}

    def _state(self, name: str, value: float, *shape: int) -> keras.Variable:
        return self.add_weight(
            shape=shape,
            initializer=keras.initializers.Constant(value),
            trainable=False,
            autocast=False,
            # What replicas assign is the mean of what each has seen.
            aggregation="mean",
            name=name,
        )


@keras.saving.register_keras_serializable(package="kprune")
class Gate(GroupGate):
    """One learned gate per channel, sampled while training.

    In a training step, channel `j` is open if `logit_j + noise > 0`, with
    logistic noise. This is the two-class Gumbel-softmax of Jang et al. (arXiv
    1611.01144) and Maddison et al. (arXiv 1611.00712), in which only the
    difference of the two logits matters. The gradient is that of
    `sigmoid((logit_j + noise) / temperature)` (straight-through). There is no
    noise in inference. Of the channels that masks have not removed, the one with
    the largest sum is always open.

    Args:
        size: Number of channels of the group.
        group: The group's name.
        start: Initial value of all logits; with 2, a channel is open in 88 % of
            the samples.
        seed: Seed of the noise.
        decoder: Whether to add a `decoder`: a linear map of the group's
            channels for losses on features. It is trained with the model, but
            its outputs do not depend on it.
        **kwargs: See `keras.layers.Layer`.
    """

    def __init__(
        self,
        size: int,
        group: str = "",
        start: float = 2.0,
        seed: int = 0,
        decoder: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(size, group, **kwargs)
        self.start = number(start, "Gate", "start")
        self.seed = whole(seed, "Gate", "seed", least=0)
        self.logits = self.add_weight(
            shape=(size,),
            initializer=keras.initializers.Constant(start),
            autocast=False,
            name="logits",
        )
        self.temperature = self._state("temperature", 1.0)
        # Of the optimizer, see `GateCallback`. A variable, so that a resumed run
        # goes on as if it had not been interrupted.
        self.largest_step = self._state("largest_step", 0.0, size)
        self._stream = _Stream(seed)
        self.decoder: keras.layers.Dense | None = None
        if decoder:
            self.decoder = keras.layers.Dense(size, name="decoder")
            self.decoder.build((None, size))
        self.built = True

    def learned(self) -> list[keras.Variable]:
        return [self.logits]

    def values(self, step: Any, alive: Any, training: bool | None) -> Any:
        logits = self.logits.value
        if training:
            with self._stream.at(step) as seed:
                uniform = keras.random.uniform(
                    (self.size,), 1e-6, 1 - 1e-6, "float32", seed
                )
            noise = ops.log(uniform) - ops.log1p(-uniform)
            logits = logits + ops.cast(noise, logits.dtype)
        left = logits
        if alive is not None:
            left = ops.where(alive > 0, logits, -np.inf)
        chosen = ops.logical_or(left > 0, left >= ops.max(left))
        hard = ops.cast(chosen, logits.dtype)
        soft = ops.sigmoid(logits / self.temperature.value)
        values = hard + (soft - ops.stop_gradient(soft))
        for variable in self.decoder.weights if self.decoder else []:
            # Optimizers warn about weights without a gradient.
            values = values + 0.0 * ops.cast(
                ops.sum(variable.value), values.dtype
            )
        return values

    def static(self, alive: np.ndarray) -> np.ndarray:
        logits = np.where(alive, read(self.logits), -np.inf)
        return ((logits > 0) | (logits == logits.max())).astype("float32")

    def decoded(self, features: Any) -> Any:
        """Apply the decoder to features of shape `(..., size)`."""
        if self.decoder is None:
            raise ValueError(
                f"The gate of group '{self.group}' has no decoder."
            )
        return self.decoder(features)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "start": self.start,
            "seed": self.seed,
            "decoder": self.decoder is not None,
        }


class _Stream(keras.random.SeedGenerator):
    """A seed generator whose next seed depends on the step only."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._step: Any = 0

    def at(self, step: Any) -> _Stream:
        self._step = step
        return self

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *error: object) -> None:
        self._step = 0

    def next(self, ordered: bool = True) -> Any:
        first = self.state.value
        step = ops.cast(self._step, first.dtype)
        return first + ops.stack([ops.zeros_like(step), step])


class Tied:
    """Holds a gate, hidden from Keras' saving. See `TiedLayer`."""

    def __init__(self, gate: Any) -> None:
        self.gate = gate


class TiedLayer(keras.layers.Layer):
    """A wrapper's layer that shares its gate with layers of other wrappers.

    Args:
        gate: The group's `GroupGate`.
        **kwargs: See `keras.layers.Layer`.
    """

    mask: tuple[int, int] | None = None
    """Weight index and axis of the wrapper's mask that `call` takes as `alive`."""

    def __init__(self, gate: GroupGate, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tied = Tied(gate)
        self._layers.append(gate)
        self.built = True

    # In files, every holder of a gate saves all of it. Keras would save it with
    # its first holder and load it from the first holder in the loaded model, whose
    # layers may be in another order.

    def save_own_variables(self, store: Any) -> None:
        for place, variable in enumerate(self._saved()):
            store[str(place)] = read(variable)

    def load_own_variables(self, store: Any) -> None:
        variables = self._saved()
        if len(store.keys()) != len(variables):
            raise ValueError(
                f"Layer '{self.name}' has {len(variables)} variables, but the "
                f"file has {len(store.keys())} for it."
            )
        for place, variable in enumerate(variables):
            variable.assign(store[str(place)])

    def _saved(self) -> list[keras.Variable]:
        own = [*self._trainable_variables, *self._non_trainable_variables]
        return [*own, *self.tied.gate.weights]

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "gate": keras.saving.serialize_keras_object(self.tied.gate),
            "tie": id(self.tied.gate),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        config = dict(config)
        # Keras does not restore shared objects at this depth.
        tie = config.pop("tie")
        gate = serialization_lib.get_shared_object(tie)
        if gate is None:
            gate = keras.saving.deserialize_keras_object(config["gate"])
            serialization_lib.record_object_after_deserialization(gate, tie)
        config["gate"] = gate
        return cls(**config)


@keras.saving.register_keras_serializable(package="kprune")
class GatedInput(TiedLayer):
    """Multiplies a layer's input with the gate of a group.

    A `FilterMask` has one for each gated group that its layer reads. Each counts
    the training steps, and the noise depends on their number, so all layers that
    read a group see the same sample in a step.

    Args:
        gate: The group's `GroupGate`.
        index: The group's channel at each position on the axis, or -1.
        axis: Axis of the layer's input.
        rank: Rank of the input.
        calls: How often a forward pass through the model calls the layer.
        mask: Weight index and axis of the wrapper's mask of these positions.
        **kwargs: See `keras.layers.Layer`.
    """

    def __init__(
        self,
        gate: GroupGate,
        index: Sequence[int],
        axis: int,
        rank: int,
        calls: int = 1,
        mask: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(gate, **kwargs)
        self.index = tuple(int(n) for n in index)
        self.axis = int(axis)
        self.rank = int(rank)
        self.calls = int(calls)
        self.mask = None if mask is None else (int(mask[0]), int(mask[1]))
        # Positions of other channels take a 1 that is appended to the values.
        self._whole = self.index == tuple(range(gate.size))
        self._positions = np.array(
            [gate.size if n < 0 else n for n in self.index], "int32"
        )
        channels = range(gate.size)
        self._first = np.array([self.index.index(n) for n in channels], "int32")
        self.step = self.add_weight(
            shape=(), initializer="zeros", dtype="int32", trainable=False
        )

    @property
    def shows(self) -> bool:
        """Whether the axis of the input has exactly the group's channels."""
        return self._whole

    def call(
        self, inputs: Any, alive: Any = None, training: bool | None = None
    ) -> Any:
        step = self.step.value
        if alive is not None:
            alive = ops.take(alive, self._first)
        values = self.tied.gate(step // self.calls, alive)
        if training:
            self.step.assign(step + 1)
        if not self._whole:
            one = ops.ones_like(values[..., :1])
            values = ops.concatenate([values, one], axis=-1)
            values = ops.take(values, self._positions, axis=-1)
        shape = [1] * len(inputs.shape)
        shape[self.axis] = len(self.index)
        if len(values.shape) > 1:
            shape[0] = -1
        return inputs * ops.cast(ops.reshape(values, shape), inputs.dtype)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "index": list(self.index),
            "axis": self.axis,
            "rank": self.rank,
            "calls": self.calls,
            "mask": None if self.mask is None else list(self.mask),
        }


def restored(readers: Iterable[Any]) -> list[TiedLayer]:
    """Return the gate layers of a wrapper, given as layers or configurations.

    Raises:
        ValueError: Layers are copied one by one, which would give each a gate of
            its own.
    """
    readers = list(readers)
    shared = global_state.get_global_attribute("shared_objects/id_to_obj_map")
    if shared is None and any(isinstance(r, dict) for r in readers):
        raise ValueError(
            "keras.models.clone_model and Model.from_config copy layers one by one, "
            "which would part the gates that layers share. Save the model with gates "
            "and load it, or copy it before kprune.masking.add_gates()."
        )
    return [
        keras.saving.deserialize_keras_object(r) if isinstance(r, dict) else r
        for r in readers
    ]
