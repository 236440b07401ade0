"""Rebuilding a functional model node by node, with other layers in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from kprune.graph import walk

# make(node, cache) -> the operation that replaces node.operation, and
# arguments(node, args, kwargs) -> the arguments it is called with.
Make = Callable[[Any], Any]
Arguments = Callable[[Any, tuple, dict], tuple[tuple, dict]]
Shape = Callable[[Any, int], tuple[int | None, ...]]


class Cloner:
    """Walks a functional model and calls replacements on new tensors.

    `keras.models.clone_model` does not tell which node it is at, which is
    needed where one operation is called with different arguments, and it
    calls the original operations' nodes into being again.

    Args:
        make: Returns the replacement of a node's layer or operation. Asked
            once per layer, once per node for operations.
        arguments: Returns the arguments a node's replacement is called with.
        input_shape: `(functional, index) -> shape` of the new inputs.
    """

    def __init__(self, make: Make, arguments: Arguments, input_shape: Shape):
        self._make = make
        self._arguments = arguments
        self._input_shape = input_shape
        self.layers: dict[int, Any] = {}

    def clone(self, model: keras.Model) -> keras.Model:
        """Return the model with every node replaced."""
        functional = walk.require_functional(model)
        tensors: dict[int, Any] = {}
        for index, tensor in enumerate(functional.inputs):
            tensors[id(tensor)] = keras.Input(
                batch_shape=self._input_shape(functional, index),
                dtype=tensor.dtype,
                sparse=tensor.sparse,
                name=walk.input_name(tensor),
            )
        for node in walk.nodes(functional):
            args, kwargs = node.arguments.fill_in(tensors)
            operation = self._replacement(node)
            inner = walk.functional_of(node.operation)
            if inner is None:
                args, kwargs = self._arguments(node, args, kwargs)
            elif not isinstance(node.operation, keras.Model):
                # A composite layer's call may have arguments of its own.
                args, kwargs = tuple(walk.tensors_of(args, kwargs)), {}
            outputs = operation(*args, **kwargs)
            flat = keras.tree.flatten(outputs)
            for old, new in zip(node.outputs, flat, strict=True):
                tensors[id(old)] = new

        def swap(structure: Any) -> Any:
            return keras.tree.map_structure(lambda t: tensors[id(t)], structure)

        new = _constructor(model)(
            swap(functional.input), swap(functional.output), name=model.name
        )
        if not model.trainable:
            new.trainable = False
        return new

    def _replacement(self, node: Any) -> Any:
        operation = node.operation
        if not isinstance(operation, keras.layers.Layer):
            return self._make(node)
        if id(operation) not in self.layers:
            inner = walk.functional_of(operation)
            if inner is not None:
                model = isinstance(operation, keras.Model)
                new = self.clone(operation if model else inner)
                if not operation.trainable:
                    new.trainable = False
                self.layers[id(operation)] = new
            else:
                self.layers[id(operation)] = self._make(node)
        return self.layers[id(operation)]


def _constructor(model: keras.Model) -> Any:
    """Return the model's class if it is built like `keras.Model`, else that."""
    from keras.src.models.functional import functional_like_constructor

    cls = type(model)
    if cls is keras.Sequential or issubclass(cls, keras.Sequential):
        return keras.Model
    return cls if functional_like_constructor(cls) else keras.Model
