"""Walks the private node structure of Keras models; `reading` and `batches` make it."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras.src.models.functional import Functional

from kprune.arguments import model as check_model
from kprune.graph.likeness import alteration
from kprune.graph.likeness import is_own
from kprune.graph.reading import reading_of
from kprune.graph.reading import tensors_of as tensors_of
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
    """Return the functional graph of a model or layer, else None.

    Models that override `call`, layers with a `CompositeRule`, and layers of
    the user's own without a rule have one if their call is symbolic.
    """
    if isinstance(operation, keras.Model) and not _calls_by_itself(operation):
        if isinstance(operation, Functional):
            return operation
        return operation._functional
    if not is_readable(operation):
        return None
    return reading_of(operation, find_rule(operation) is not None).model


def is_read(operation: Any) -> bool:
    """Return whether `functional_of` reads it from the call of an operation."""
    if isinstance(operation, keras.Model) and not _calls_by_itself(operation):
        return False
    return functional_of(operation) is not None


def is_readable(operation: Any) -> bool:
    """Return whether it is worth to look at how an operation is called."""
    if isinstance(operation, keras.Model):
        return _calls_by_itself(operation) and not _is_bare(operation)
    if not isinstance(operation, keras.layers.Layer) or isinstance(
        operation, Transparent | keras.layers.Lambda | keras.layers.InputLayer
    ):
        return False
    rule = find_rule(operation)
    if rule is not None:
        return isinstance(rule, CompositeRule)
    return is_own(operation) and alteration(operation) is None


def _calls_by_itself(model: keras.Model) -> bool:
    """Return whether a model is neither functional nor Sequential, or more."""
    for kind in (Functional, keras.Sequential):
        if isinstance(model, kind):
            return type(model).call is not kind.call
    return True


def _is_bare(model: keras.Model) -> bool:
    return type(model).call is keras.Model.call


def inner_inputs(node: Any, inner: keras.Model) -> list[Any]:
    """Return what a nested model is called on, in the order of its inputs.

    Args:
        node: The call.
        inner: `functional_of(node.operation)`.

    Returns:
        Symbolic tensors, or constants.
    """
    args, kwargs = node.arguments.args, node.arguments.kwargs
    if is_read(node.operation):
        return tensors_of(args, kwargs)
    given = args[0] if args else kwargs["inputs"]
    if isinstance(given, dict) and not isinstance(inner.input, dict):
        return [given[t.name] for t in inner.inputs]
    return keras.tree.flatten(given)


def with_outputs(
    node: Any, outputs: Iterable[Any]
) -> Iterator[tuple[Any, Any]]:
    """Yield a call's output tensors with values; empty ones may have no value."""
    strict = not is_read(node.operation)
    yield from zip(node.outputs, outputs, strict=strict)


def require_functional(model: Any, owner: str = "kprune") -> keras.Model:
    """Return the functional graph of `model`, or an error that says the ways out.

    Args:
        model: What came.
        owner: The function whose argument it is.
    """
    check_model(model, owner)
    functional = functional_of(model)
    if functional is not None:
        return functional
    if isinstance(model, keras.Sequential):
        raise ValueError(
            f"Sequential model '{model.name}' has no input shape yet, so its "
            "channels are unknown. Start it with keras.Input(...), or call "
            "model.build(input_shape) first."
        )
    cause = (
        reading_of(model).cause if is_readable(model) else "it has no call()"
    )
    raise TypeError(
        f"Model '{model.name}' is a subclassed model (class "
        f"{type(model).__name__}) that cannot be read as a functional one: "
        f"{cause}. Ways out: let call() use layers and keras.ops only, and call "
        "the model once; or build it with the functional API, as "
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
