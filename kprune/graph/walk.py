"""The only place that reads the private node structure of Keras models."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from kprune.graph.registry import CompositeRule
from kprune.graph.registry import find_rule


class Transparent(keras.layers.Layer):
    """Marks a wrapper whose inner layer does the work the graph sees.

    `kprune.graph` knows no mask; a wrapper that only scales variables derives
    from this class and is looked through.
    """

    def inner(self) -> keras.layers.Layer:
        """Return the layer that is wrapped."""
        return self.layer

    def masked_axes(self) -> set[tuple[int, Any]]:
        """Return what has a mask: `(id(variable), axis)` and `(id(layer), name)`.

        The latter are the needs of the layer's rule (`Call.need`).
        """
        raise TypeError(f"{type(self).__name__} must define masked_axes().")


def unwrap(operation: Any) -> Any:
    """Return the operation itself, or the layer inside a transparent wrapper."""
    if isinstance(operation, Transparent):
        return operation.inner()
    return operation


def functional_of(operation: Any) -> keras.Model | None:
    """Return the functional graph of a model or composite layer, else None."""
    if isinstance(operation, keras.Sequential):
        return operation._functional
    if isinstance(operation, keras.Model):
        return operation if hasattr(operation, "_nodes_by_depth") else None
    if isinstance(operation, keras.layers.Layer) and is_composite(operation):
        return _COMPOSITES[operation]
    return None


_COMPOSITES: weakref.WeakKeyDictionary[Any, keras.Model | None] = (
    weakref.WeakKeyDictionary()
)


def is_composite(operation: Any) -> bool:
    """Return whether a layer has a `CompositeRule` and can be read as a model."""
    if not isinstance(find_rule(operation), CompositeRule):
        return False
    if operation not in _COMPOSITES:
        _COMPOSITES[operation] = _read_call(operation)
    return _COMPOSITES[operation] is not None


def tensors_of(args: tuple, kwargs: dict[str, Any]) -> list[Any]:
    """Return the symbolic tensors among the arguments of a call."""
    flat = keras.tree.flatten((args, kwargs))
    return [x for x in flat if isinstance(x, keras.KerasTensor)]


def _read_call(layer: keras.layers.Layer) -> keras.Model | None:
    """Return the model that the layer's `call` amounts to, over the same layers."""
    given = [
        tensors_of(n.arguments.args, n.arguments.kwargs)
        for n in layer._inbound_nodes
    ]
    inside = {
        id(v) for part in layer._layers for v in part.variables
    }  # fmt: skip
    own = [v for v in layer.variables if id(v) not in inside]
    if own or any(len(tensors) != 1 for tensors in given):
        return None
    tensor = given[0][0]
    fixed = tensor.shape[0] is not None and tensor.shape[0] % BATCH
    batch = tensor.shape[0] if fixed else BATCH
    shape = (batch, *tensor.shape[1:])
    inputs = keras.Input(batch_shape=shape, dtype=tensor.dtype)
    try:
        model = keras.Model(inputs, layer.call(inputs), name=layer.name)
        return model if fixed else _for_any_batch(model)
    except Exception:  # any error means that the call is not symbolic
        return None


# Calls may compute with the size of the batch, so they are read with one
# that is recognised in shapes: a prime that no other size is a multiple of.
BATCH = 1009


def _for_any_batch(model: keras.Model) -> keras.Model:
    """Return the model for batches of any size instead of `BATCH`."""
    (given,) = model.inputs
    shape = (None, *given.shape[1:])
    inputs = keras.Input(batch_shape=shape, dtype=given.dtype)
    tensors = {id(given): inputs}
    for node in nodes(model):
        args, kwargs = node.arguments.fill_in(tensors)
        operation = node.operation
        if isinstance(operation, keras.src.ops.numpy.Reshape):
            open_ = [-1 if n % BATCH == 0 else n for n in node.outputs[0].shape]
            operation = type(operation)(tuple(open_), name=operation.name)
        elif _names_batch((args, kwargs)) or _names_batch(_given(operation)):
            raise ValueError(f"{operation.name} is given the size of the batch")
        outputs = keras.tree.flatten(operation(*args, **kwargs))
        for old, new in zip(node.outputs, outputs, strict=True):
            tensors[id(old)] = new
    outputs = keras.tree.map_structure(lambda t: tensors[id(t)], model.output)
    return keras.Model(inputs, outputs, name=model.name)


def _given(operation: Any) -> list[Any]:
    """Return what an operation was constructed with; a layer knows no batch."""
    if isinstance(operation, keras.layers.Layer):
        return []
    return [v for k, v in vars(operation).items() if not k.startswith("_")]


def _names_batch(structure: Any) -> bool:
    """Return whether anything in `structure` was made for batches of `BATCH`."""
    flat = keras.tree.flatten(structure)
    sizes = [n for x in flat for n in (x, *(getattr(x, "shape", None) or ()))]
    return any(isinstance(n, int) and n and n % BATCH == 0 for n in sizes)


def require_functional(model: Any) -> keras.Model:
    """Return the functional graph of `model`, or an error that says the ways out."""
    if not isinstance(model, keras.Model):
        raise TypeError(
            "kprune works on Keras models. Received: "
            f"{model!r} (of type {type(model).__name__})."
        )
    functional = functional_of(model)
    if functional is not None:
        return functional
    if isinstance(model, keras.Sequential):
        raise ValueError(
            f"Sequential model '{model.name}' has no input shape yet, so its "
            "channels are unknown. Start it with keras.Input(...), or call "
            "model.build(input_shape) first."
        )
    raise TypeError(
        f"Model '{model.name}' is a subclassed model "
        f"(class {type(model).__name__}): its graph exists only while its "
        "call() runs, so kprune cannot know which channels belong together. "
        "Ways out: build it with the functional API, as "
        f"{type(model).__name__}(inputs, outputs) with only train_step() "
        "overridden; or build a functional model from its blocks with "
        "keras.Model(x, block(x)) and copy the weights."
    )


def input_name(tensor: Any) -> str:
    """Return the name of the input layer a model input comes from."""
    operation = tensor._keras_history.operation
    return tensor.name if operation is None else operation.name


def nodes(functional: keras.Model) -> Iterator[Any]:
    """Yield the calls of a functional model in execution order, inputs left out.

    Calls of equal depth come in the order of their names: Keras' own order
    changes when a model is saved and loaded, and group names follow it.
    """
    by_depth = functional._nodes_by_depth
    for depth in sorted(by_depth, reverse=True):
        calls = [n for n in by_depth[depth] if not n.is_input]
        yield from sorted(calls, key=lambda n: n.operation.name)


def layers_of(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """Yield all layers called in `model`, those of nested models included, once."""
    seen: set[int] = set()
    stack = [require_functional(model)]
    while stack:
        for node in nodes(stack.pop()):
            operation = node.operation
            if id(operation) in seen:
                continue
            seen.add(id(operation))
            inner = functional_of(operation)
            if inner is not None:
                stack.append(inner)
            elif isinstance(operation, keras.layers.Layer):
                yield operation


def flat_inputs(functional: keras.Model, inputs: Any) -> list[Any]:
    """Return the arrays for `functional.inputs`, as `predict` would match them."""
    flat = functional._standardize_inputs(inputs)
    return [np.asarray(keras.ops.convert_to_numpy(x)) for x in flat]
