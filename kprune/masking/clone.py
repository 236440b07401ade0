"""Cloning of a functional model node by node, with replaced layers."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras.src.models.functional import Functional
from keras.src.saving.keras_saveable import KerasSaveable
from keras.src.trainers.trainer import Trainer

from kprune.graph import walk
from kprune.graph.batches import input_like
from kprune.graph.values import copy_traits
from kprune.graph.values import copy_value
from kprune.graph.values import read
from kprune.masking.devices import place_like

logger = logging.getLogger("kprune")

# make(node) -> the operation that replaces node.operation;
# arguments(node, args, kwargs) -> its call arguments.
Make = Callable[[Any], Any]
CallArguments = tuple[tuple[Any, ...], dict[str, Any]]
Arguments = Callable[[Any, tuple[Any, ...], dict[str, Any]], CallArguments]
Shape = Callable[[Any, int], tuple[int | None, ...]]


class Cloner:
    """Walks a functional model and calls replacements on new tensors.

    `keras.models.clone_model` does not pass on the node, which is needed if one
    operation is called with different arguments, and it adds nodes to the
    original operations.

    Args:
        make: `make(node)` returns the replacement of the node's layer or
            operation. It is called once per layer, and once per node for other
            operations.
        arguments: `arguments(node, args, kwargs)` returns the call arguments of
            the replacement.
        input_shape: `input_shape(functional, index)` returns the shape of a new
            input.
    """

    def __init__(self, make: Make, arguments: Arguments, input_shape: Shape):
        self._make = make
        self._arguments = arguments
        self._input_shape = input_shape
        self.layers: dict[int, Any] = {}
        # The new tensor by the id of the old one.
        self.tensors: dict[int, Any] = {}
        # Variables that models of own classes have besides those of layers, and
        # their copies.
        self.pairs: list[tuple[Any, Any]] = []
        self._variables: set[int] = set()

    def clone(self, model: keras.Model) -> keras.Model:
        """Return the model with every node replaced."""
        functional = walk.require_functional(model)
        tensors: dict[int, Any] = {}
        for index, tensor in enumerate(functional.inputs):
            tensors[id(tensor)] = input_like(
                tensor,
                self._input_shape(functional, index),
                walk.input_name(tensor),
            )
        for node in walk.nodes(functional):
            args, kwargs = node.arguments.fill_in(tensors)
            operation = self._replacement(node)
            inner = walk.functional_of(node.operation)
            if inner is None:
                args, kwargs = self._arguments(node, args, kwargs)
            elif walk.is_read(node.operation):
                # The original call may have arguments besides tensors.
                given = walk.tensors_of(args, kwargs)
                args, kwargs = (given if len(given) > 1 else given[0],), {}
            outputs = operation(*args, **kwargs)
            flat = keras.tree.flatten(outputs)
            for old, new in walk.with_outputs(node, flat):
                tensors[id(old)] = new
        self.tensors |= tensors

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
            self._variables |= {id(v) for v in operation.variables}
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
        """Return a model of the same class over new tensors."""
        cls: Any = type(model)
        own = _own_classes(cls)
        if own and not walk.is_read(model) and issubclass(cls, Functional):
            new = self._functional(cls, model, inputs, outputs)
        else:
            new = keras.Model(inputs, outputs, name=model.name)
            if not own or (walk.is_read(model) and not _trains(own)):
                return new
            new.__class__ = _with_graph(cls)
        made = dict(vars(new))
        known = {*_own_names(), "_kprune_own_weights"}
        if hasattr(type(new), _MADE_HERE):
            known |= set(made)
        # Keras looked at the class that the copy had when it was made.
        known.discard("_compute_loss_has_training_arg")
        for name, value in vars(model).items():
            # Callbacks hide methods of the original during `fit`.
            if name in known or getattr(type(value), "copied", True) is False:
                continue
            if name in made and self._has_taken(value, made[name]):
                continue
            try:
                setattr(new, name, self._swapped(value))
            except _TiedError:
                logger.info(
                    "The copy of model '%s' lacks attribute '%s', which refers "
                    "to layers of the original.",
                    model.name,
                    name,
                )
        if hasattr(type(new), _MADE_HERE):
            new._kprune_own_weights = _OwnWeights(
                [*new._trainable_variables, *new._non_trainable_variables]
            )
        return new

    def _functional(
        self, cls: Any, model: keras.Model, inputs: Any, outputs: Any
    ) -> Any:
        from keras.src.models.functional import functional_like_constructor

        if functional_like_constructor(cls) and not hasattr(cls, _MADE_HERE):
            # It may require arguments besides those of Functional.
            with contextlib.suppress(Exception):
                return cls(inputs, outputs, name=model.name)
        # The constructor's arguments are unknown, but what it made of them is
        # in the attributes.
        new = keras.Model(inputs, outputs, name=model.name)
        new.__class__ = _with_graph(cls)
        return new

    def _has_taken(self, value: Any, made: Any) -> bool:
        """Let weights that a constructor made take the values of the original's.

        Returns:
            False if the attribute has no weights, or layers that have a copy.
        """
        parts = keras.tree.flatten([value])
        old, new = _variables_in(value), _variables_in(made)
        if not old or any(id(part) in self.layers for part in parts):
            return False
        if [v.shape for v in old] == [v.shape for v in new]:
            for source, target in zip(old, new, strict=True):
                self._take(source, target)
        return True

    def _take(self, source: Any, target: Any) -> None:
        place_like(source, target)
        copy_value(source, target)
        copy_traits(source, target)
        self.pairs.append((source, target))

    def _swapped(self, value: Any) -> Any:
        """Return an attribute's value with layers and variables replaced by copies."""
        if isinstance(value, dict):
            return {k: self._swapped(v) for k, v in value.items()}
        if isinstance(value, list):
            return [self._swapped(v) for v in value]
        if type(value) is tuple:
            return tuple(self._swapped(v) for v in value)
        if isinstance(value, keras.layers.Layer):
            return self._layer(value)
        if isinstance(value, keras.Variable):
            new = keras.Variable(
                np.array(read(value)), dtype=value.dtype, name=value.name
            )
            self._take(value, new)
            return new
        return value

    def _layer(self, layer: Any) -> Any:
        """Return a layer's copy, or the layer itself if it is not in the graph.

        Raises:
            _TiedError: If the layer is not in the graph but shares its weights.
        """
        if id(layer) in self.layers:
            return self.layers[id(layer)]
        if isinstance(layer, Functional):
            ends = [*layer.inputs, *layer.outputs]
            if all(id(t) in self.tensors for t in ends):

                def swap(structure: Any) -> Any:
                    return keras.tree.map_structure(
                        lambda t: self.tensors[id(t)], structure
                    )

                return keras.Model(
                    swap(layer.input), swap(layer.output), name=layer.name
                )
        if any(id(v) in self._variables for v in layer.variables):
            raise _TiedError
        return layer


def _variables_in(value: Any) -> list[Any]:
    """Return the variables in an attribute, also those of layers and metrics."""
    found: list[Any] = []
    for part in keras.tree.flatten([value]):
        is_variable = isinstance(part, keras.Variable)
        found += [part] if is_variable else getattr(part, "variables", [])
    return found


class _TiedError(Exception):
    """Raised for an attribute that would tie the copy to the original."""


@functools.cache
def _own_names() -> frozenset[str]:
    """Return the attribute names that Keras itself sets on compiled models."""
    inputs = keras.Input((1,))
    layer = keras.layers.Identity()
    names: set[str] = set()
    for model in (
        keras.Model(inputs, layer(inputs)),
        keras.Sequential([inputs, layer]),
    ):
        model.compile("sgd", "mse")
        names |= set(vars(model))
    return frozenset(names)


def _own_classes(cls: Any) -> list[Any]:
    """Return the user-defined classes that a model class derives from."""
    kinds = (keras.Model, keras.Sequential, Functional)
    return [
        c for c in cls.__mro__ if issubclass(c, keras.Model) and c not in kinds
    ]


def _trains(own: list[Any]) -> bool:
    """Return whether any of these classes changes how a model trains."""
    hooks = {n for n in vars(Trainer) if not n.startswith("__")}
    return any(hooks & set(vars(cls)) for cls in own)


_MADE_HERE = "_kprune_calls_as_functional"


class _OwnWeights(KerasSaveable):
    """Saves a model's own weights beside it, where Keras' Functional has none."""

    def __init__(self, variables: list[Any]):
        self.variables = variables

    def _obj_type(self) -> str:
        return "Operation"  # Keras accepts its own types only.

    def save_own_variables(self, store: Any) -> None:
        for number, variable in enumerate(self.variables):
            store[str(number)] = variable

    def load_own_variables(self, store: Any) -> None:
        for number, variable in enumerate(self.variables):
            variable.assign(store[str(number)])


def _nothing(model: Any, store: Any) -> None:
    """Save or load no variables. See `_OwnWeights`."""


@functools.cache
def _with_graph(cls: Any) -> Any:
    """Return a class that calls and saves as Functional does, but trains as `cls`.

    Files refer to it as Keras' Functional. So they load without `cls`, whose
    constructor would build a model of the old size.
    """
    if hasattr(cls, _MADE_HERE):
        return cls
    named = {
        "__module__": Functional.__module__,
        "__qualname__": Functional.__qualname__,
        _MADE_HERE: True,
        "save_own_variables": _nothing,
        "load_own_variables": _nothing,
    }
    if not issubclass(cls, Functional):
        return type("Functional", (Functional, cls), named)
    for name in ("__init__", "call", "get_config"):
        named[name] = getattr(Functional, name)
    return type("Functional", (cls,), named)
