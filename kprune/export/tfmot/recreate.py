"""Re-create a Keras 3 model as a tf_keras model that computes the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from typing import Any
from typing import NamedTuple

import keras
import numpy as np

from kprune.export.differences import compare_outputs
from kprune.export.signature import ModelSignature
from kprune.export.signature import identifier
from kprune.export.tfmot import counterparts
from kprune.export.tfmot import embedded
from kprune.export.tfmot.packages import packages
from kprune.export.tfmot.steps import RecreationError
from kprune.export.tfmot.steps import Step
from kprune.export.tfmot.steps import Steps
from kprune.export.tfmot.steps import steps_of

# The two versions of Keras may sum in another order. A wrong layer differs far
# more.
_TOLERANCE = 1e-4

# Suffixes that `counterparts` adds to a layer's name for further layers.
_ENDINGS = ("", "_activation", "_depthwise")


class Origin(NamedTuple):
    """The Keras layer that a tf_keras layer stands for.

    Args:
        name: Name of the Keras layer or operation.
        kind: Its class, for example `"Conv2D"`, or the name of its activation.
    """

    name: str
    kind: str


@dataclass(frozen=True)
class Recreation:
    """A tf_keras model and the origins of its layers.

    Args:
        model: Flat functional tf_keras model with one input per input of the
            Keras model and one output per output.
        origins: Name of each of its layers -> the Keras layer it stands for.
        embedded: Names of the layers that run an unchanged Keras 3 operation.
    """

    model: Any
    origins: dict[str, Origin]
    embedded: frozenset[str]


class RecreatedSignature(ModelSignature):
    """The inputs and outputs of a Keras model, computed by a tf_keras model.

    Args:
        signature: Signature of the Keras model.
        recreated: tf_keras model with the same flat inputs and outputs.
    """

    def __init__(self, signature: ModelSignature, recreated: Any) -> None:
        super().__init__(signature.model)
        self.recreated = recreated

    def call(self, flat: Sequence[Any]) -> list[Any]:
        return flat_call(self.recreated, flat, training=False)


def flat_call(model: Any, flat: Sequence[Any], training: bool) -> list[Any]:
    """Call a tf_keras model on a flat list of tensors.

    Args:
        model: Functional tf_keras model.
        flat: One tensor per input.
        training: Whether dropout and quantisers are in training mode.

    Returns:
        One tensor per output.
    """
    import tensorflow as tf

    given = flat[0] if len(flat) == 1 else list(flat)
    return tf.nest.flatten(model(given, training=training))


def recreate(
    signature: ModelSignature, samples: Sequence[np.ndarray]
) -> Recreation:
    """Re-create a Keras model in tf_keras, and verify that it computes the same.

    Args:
        signature: Functional or Sequential model, possibly with nested models. It
            is not changed.
        samples: One array per input, to verify with.

    Returns:
        The tf_keras model. Nested models are flattened, and operations that TF-MOT
        does not support are embedded unchanged.

    Raises:
        RecreationError: The model cannot be re-created, or its outputs differ.
    """
    builder = _Builder(signature)
    for step in builder.steps.steps:
        try:
            builder.add(step)
        except RecreationError:
            raise
        except Exception as error:
            raise RecreationError(
                step.operation.name, f"does not run in tf_keras: {error}"
            ) from error
    recreation = builder.finish()
    _verify(signature, recreation, samples)
    return recreation


def _verify(
    signature: ModelSignature,
    recreation: Recreation,
    samples: Sequence[np.ndarray],
) -> None:
    reference = signature.predict(samples)
    outputs = RecreatedSignature(signature, recreation.model).predict(samples)
    difference = compare_outputs(reference, outputs).max_rel
    if not difference <= _TOLERANCE:
        raise RecreationError(
            signature.model.name,
            f"computes something else in tf_keras (by {difference:.1e} of the "
            "output's scale)",
        )


@dataclass
class _Builder:
    signature: ModelSignature
    steps: Steps = field(init=False)
    tensors: dict[int, Any] = field(default_factory=dict)
    chains: dict[tuple[int, bool], tuple[Any, ...]] = field(
        default_factory=dict
    )
    origins: dict[str, Origin] = field(default_factory=dict)
    embedded: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        make = packages().tf_keras.Input
        self.steps = steps_of(self.signature.model)
        self._uses = self.steps.uses()
        self._calls = self.steps.calls()
        self._readers = {n: s for s in self.steps.steps for n in s.inputs}
        self._fused: set[int] = set()
        for number, spec in zip(
            self.steps.inputs, self.signature.inputs, strict=True
        ):
            dtype = "float32" if "float" in spec.dtype else spec.dtype
            name = self._name(Origin(spec.name, "InputLayer"))
            self.tensors[number] = make(spec.shape[1:], dtype=dtype, name=name)

    def add(self, step: Step) -> None:
        """Call the layers that stand for `step` on the tensors made so far."""
        values = [self.tensors[number] for number in step.inputs]
        if id(step) in self._fused:
            outputs = values
        else:
            chain = self._chain(step)
            outputs = self._call(chain, values)
        for number, tensor in zip(step.outputs, outputs, strict=True):
            self.tensors[number] = tensor

    def finish(self) -> Recreation:
        inputs = [self.tensors[number] for number in self.steps.inputs]
        outputs = [self.tensors[number] for number in self.steps.outputs]
        name = identifier(self.signature.model.name)
        model = packages().tf_keras.Model(inputs, outputs, name=name)
        return Recreation(model, self.origins, frozenset(self.embedded))

    def _call(self, chain: tuple[Any, ...], values: list[Any]) -> list[Any]:
        current: Any = values[0] if len(values) == 1 else values
        for layer in chain:
            current = layer(current)
        return list(current) if isinstance(current, list) else [current]

    def _chain(self, step: Step) -> tuple[Any, ...]:
        """Return the layers for a step. A shared layer is made only once."""
        # Calls of a shared layer with and without flags need different layers.
        key = (id(step.operation), counterparts.plainly_called(step.node))
        if key in self.chains:
            return self.chains[key]
        origin = Origin(step.operation.name, type(step.operation).__name__)
        name = self._name(origin)
        found = counterparts.counterpart(
            step.node, name, relu=self._fuse_relu(step)
        )
        if found is None:
            self.embedded.add(name)
            return (embedded.embed(embedded.of_node(step.node), name),)
        for layer in found.layers:
            if isinstance(layer, embedded.embedded_class()):
                self.embedded.add(layer.name)
                function = step.operation.activation
                kind = getattr(function, "__name__", type(function).__name__)
                self.origins[layer.name] = Origin(origin.name, kind)
            else:
                self.origins[layer.name] = origin
        if isinstance(step.operation, keras.layers.Layer):
            self.chains[key] = found.layers
        self._load(step, found)
        return found.layers

    def _load(self, step: Step, found: counterparts.Counterpart) -> None:
        """Build each layer and set its weights."""
        shape = tuple(self.tensors[step.inputs[0]].shape)
        for layer, weights in zip(found.layers, found.weights, strict=True):
            if weights:
                layer.build(shape)
                layer.set_weights(weights)
                shape = tuple(layer.compute_output_shape(shape))

    def _fuse_relu(self, step: Step) -> bool:
        """Return whether a layer is only read by a ReLU that can be fused.

        TF-MOT does not quantise the weights of a layer if a separate ReLU layer
        follows, but does if the ReLU is the layer's activation.
        """
        operation = step.operation
        once = self._calls[id(operation)] == 1
        if not once or not counterparts.takes_activation(operation):
            return False
        (number,) = step.outputs
        reader = self._readers.get(number)
        if self._uses[number] != 1 or reader is None:
            return False
        if not counterparts.is_relu(reader.operation):
            return False
        self._fused.add(id(reader))
        return True

    def _name(self, origin: Origin) -> str:
        """Return an unused name; layers of nested models may share names."""
        base = name = identifier(origin.name)
        count = 0
        while any(f"{name}{ending}" in self.origins for ending in _ENDINGS):
            count += 1
            name = f"{base}_{count}"
        self.origins[name] = origin
        return name
