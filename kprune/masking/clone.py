"""Rebuilding a functional model node by node, with other layers in it."""

from __future__ import annotations

import functools
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

        new = self._instance(
            model, swap(functional.input), swap(functional.output)
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

    def _instance(
        self, model: keras.Model, inputs: Any, outputs: Any
    ) -> keras.Model:
        """Return a model of the same class over other tensors."""
        from keras.src.models.functional import functional_like_constructor

        cls = type(model)
        new: keras.Model
        if issubclass(cls, keras.Sequential):
            _refuse_own_training(model)
            return keras.Model(inputs, outputs, name=model.name)
        if functional_like_constructor(cls):
            new = cls(inputs, outputs, name=model.name)
        else:
            # The constructor wants arguments that nobody remembers; what it
            # made of them is in the attributes.
            new = keras.Model(inputs, outputs, name=model.name)
            new.__class__ = cls
        known = {*vars(new), *_own_names()}
        for name, value in vars(model).items():
            if name not in known:
                setattr(new, name, self.layers.get(id(value), value))
        return new


@functools.cache
def _own_names() -> frozenset[str]:
    """Return what Keras itself keeps on a compiled functional model."""
    inputs = keras.Input((1,))
    model = keras.Model(inputs, keras.layers.Identity()(inputs))
    model.compile("sgd", "mse")
    return frozenset(vars(model))


def _refuse_own_training(model: keras.Model) -> None:
    """Raise if a Sequential subclass changes how it trains."""
    hooks = (
        "train_step",
        "test_step",
        "predict_step",
        "compute_loss",
        "compute_metrics",
        "call",
    )
    for cls in type(model).__mro__:
        if cls is keras.Sequential:
            return
        for name in hooks:
            if name in vars(cls):
                raise TypeError(
                    f"Model '{model.name}' is of class {cls.__name__}, a "
                    f"keras.Sequential with a {name}() of its own, which its "
                    "masked copy could not keep: that is a functional model. "
                    f"Derive {cls.__name__} from keras.Model and construct it "
                    "as functional model, from inputs and outputs."
                )
