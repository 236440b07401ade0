"""Embed Keras 3 operations in a tf_keras model.

Operations that TF-MOT does not support need no counterpart in tf_keras: on the
TensorFlow backend a Keras 3 operation can be called on the tensors of a tf_keras
model. Its weights belong to the Keras 3 model and are not trained.
"""

from __future__ import annotations

import functools
import itertools
import weakref
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras

from kprune.export.tfmot.packages import packages


class Computation:
    """A function that the config of a layer can refer to by a key.

    Args:
        function: Function from a list of tensors to a flat list of tensors.
    """

    def __init__(self, function: Callable[[Sequence[Any]], list[Any]]) -> None:
        self.function = function
        self.key = f"computation_{next(_numbers)}"
        _computations[self.key] = self


# TF-MOT copies layers through their configs, which hold only a key. The layers
# keep their computations alive.
_computations: weakref.WeakValueDictionary[str, Computation] = (
    weakref.WeakValueDictionary()
)
_numbers = itertools.count()


def of_node(node: Any) -> Computation:
    """Make a computation from one call of a Keras 3 operation.

    Args:
        node: Keras' record of the call.

    Returns:
        The computation, in inference mode.
    """
    operation = node.operation
    tensors = node.arguments.keras_tensors
    inference = (
        isinstance(operation, keras.layers.Layer)
        and operation._call_has_training_arg
    )

    def compute(values: Sequence[Any]) -> list[Any]:
        given = {id(t): v for t, v in zip(tensors, values, strict=True)}
        args, kwargs = node.arguments.fill_in(given)
        if inference:
            kwargs = {"training": False, **kwargs}
        return keras.tree.flatten(operation(*args, **kwargs))

    return Computation(compute)


def of_function(function: Callable[[Any], Any]) -> Computation:
    """Make a computation from an activation function.

    Args:
        function: Function of one tensor.

    Returns:
        The computation.
    """
    return Computation(lambda values: [function(values[0])])


def embed(computation: Computation, name: str) -> Any:
    """Make a tf_keras layer that runs a computation.

    Args:
        computation: The computation.
        name: Name of the layer.

    Returns:
        The layer, which is called on a list of tensors.
    """
    return embedded_class()(computation.key, name=name)


@functools.cache
def embedded_class() -> Any:
    """Return the class of the layers that `embed` makes."""
    import tensorflow as tf

    base: Any = packages().tf_keras.layers.Layer

    class KpruneEmbedded(base):
        """Computes a registered `Computation`."""

        def __init__(self, key: str, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self._computation = _computations[key]
            # Keras code needs no rewriting to be traced, and AutoGraph fails on
            # some of it.
            self._compute = tf.autograph.experimental.do_not_convert(
                self._computation.function
            )

        def call(self, inputs: Any) -> Any:
            outputs = self._compute(tf.nest.flatten(inputs))
            return outputs[0] if len(outputs) == 1 else outputs

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "key": self._computation.key}

    return KpruneEmbedded
