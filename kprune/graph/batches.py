"""Conversion of models read with one batch size into models for any batch size."""

from __future__ import annotations

from typing import Any

import keras

# A call may compute with the batch size. Reading it with a large prime makes
# the batch size recognisable in shapes: no other size is a multiple of it.
BATCH = 1009


class UnreadableError(Exception):
    """Raised if a call cannot be read as a functional model; the message says why."""


def nodes_of(model: Any) -> list[Any]:
    """Return the calls of a functional model in Keras' order, without inputs."""
    by_depth = model._nodes_by_depth
    return [
        node
        for depth in sorted(by_depth, reverse=True)
        for node in by_depth[depth]
        if not node.is_input
    ]


def input_like(tensor: Any, batch_shape: Any, name: str | None) -> Any:
    """Return a new input for tensors of the kind that a symbolic tensor stands for."""
    source = getattr(getattr(tensor, "_keras_history", None), "operation", None)
    return keras.Input(
        batch_shape=batch_shape,
        dtype=tensor.dtype,
        sparse=tensor.sparse,
        ragged=tensor.ragged,
        name=name,
        optional=getattr(source, "optional", False),
    )


def for_any_batch(model: keras.Model) -> keras.Model:
    """Return the model for batches of any size instead of `BATCH`."""

    def opened(tensor: Any) -> Any:
        shape = (None, *tensor.shape[1:])
        return input_like(tensor, shape, tensor._keras_history.operation.name)

    inputs = [opened(t) for t in model.inputs]
    tensors = {id(t): x for t, x in zip(model.inputs, inputs, strict=True)}
    for node in nodes_of(model):
        args, kwargs = node.arguments.fill_in(tensors)
        operation = node.operation
        if isinstance(operation, keras.src.ops.numpy.Reshape):
            open_ = [-1 if n % BATCH == 0 else n for n in node.outputs[0].shape]
            operation = type(operation)(tuple(open_), name=operation.name)
        elif _names_batch((args, kwargs)) or _names_batch(given_to(operation)):
            raise UnreadableError(
                f"{operation.name} receives the batch size as a constant"
            )
        outputs = keras.tree.flatten(operation(*args, **kwargs))
        for old, new in zip(node.outputs, outputs, strict=True):
            tensors[id(old)] = new

    def swap(structure: Any) -> Any:
        return keras.tree.map_structure(lambda t: tensors[id(t)], structure)

    return keras.Model(swap(model.input), swap(model.output), name=model.name)


def given_to(operation: Any) -> list[Any]:
    """Return an operation's constructor arguments; layers have no batch size."""
    if isinstance(operation, keras.layers.Layer):
        return []
    named = vars(operation).items()
    return [v for k, v in named if not k.startswith("_") and k != "name"]


def _names_batch(structure: Any) -> bool:
    """Return whether any number or shape in `structure` depends on `BATCH`."""
    flat = keras.tree.flatten(structure)
    sizes = [n for x in flat for n in (x, *(getattr(x, "shape", None) or ()))]
    return any(isinstance(n, int) and n and n % BATCH == 0 for n in sizes)
