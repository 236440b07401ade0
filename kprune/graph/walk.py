"""The only place that reads the private node structure of Keras models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras


class Transparent(keras.layers.Layer):
    """Marks a wrapper whose inner layer does the work the graph sees.

    `kprune.graph` knows no mask; a wrapper that only scales variables derives
    from this class and is looked through.
    """

    def inner(self) -> keras.layers.Layer:
        """The layer that is wrapped."""
        return self.layer

    def masked_axes(self) -> set[tuple[int, Any]]:
        """What has a mask: `(id(variable), axis)` and `(id(layer), name)`.

        The latter are the needs of the layer's rule (`Call.need`).
        """
        raise TypeError(f"{type(self).__name__} must define masked_axes().")


def unwrap(operation: Any) -> Any:
    """The operation itself, or the layer inside a transparent wrapper."""
    if isinstance(operation, Transparent):
        return operation.inner()
    return operation


def functional_of(operation: Any) -> keras.Model | None:
    """The functional graph of a Functional or Sequential model, else None."""
    if isinstance(operation, keras.Sequential):
        return operation._functional
    if isinstance(operation, keras.Model) and hasattr(
        operation, "_nodes_by_depth"
    ):
        return operation
    return None


def require_functional(model: Any) -> keras.Model:
    """The functional graph of `model`, or an error that says the ways out."""
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
    """Name of the input layer a model input comes from."""
    operation = tensor._keras_history.operation
    return tensor.name if operation is None else operation.name


def nodes(functional: keras.Model) -> Iterator[Any]:
    """The calls of a functional model in execution order, inputs left out.

    Calls of equal depth come in the order of their names: Keras' own order
    changes when a model is saved and loaded, and group names follow it.
    """
    by_depth = functional._nodes_by_depth
    for depth in sorted(by_depth, reverse=True):
        calls = [n for n in by_depth[depth] if not n.is_input]
        yield from sorted(calls, key=lambda n: n.operation.name)


def layers_of(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """All layers called in `model`, those of nested models included, once."""
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
