"""Access to the private node structure of Keras models."""

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
from kprune.graph.reading import reading_of as reading_of
from kprune.graph.reading import tensors_of as tensors_of
from kprune.graph.registry import CompositeRule
from kprune.graph.registry import find_rule


class Transparent(keras.layers.Layer):
    """Base class of wrappers that the graph replaces by their inner layer.

    `kprune.graph` is independent of masks; wrappers that only scale variables
    derive from this class.
    """

    def inner(self) -> keras.layers.Layer:
        """Return the wrapped layer."""
        return self.layer

    def masked_axes(self) -> set[tuple[int, Any]]:
        """Return the keys of all masks.

        Returns:
            `(id(variable), axis)` for masks of variables, and `(id(layer), name)`
            for those the layer's rule asks for with `Call.need`.
        """
        raise TypeError(f"{type(self).__name__} must define masked_axes().")


def unwrap(operation: Any) -> Any:
    """Return the layer inside a transparent wrapper, or the operation itself."""
    if isinstance(operation, Transparent):
        return operation.inner()
    return operation


def functional_of(operation: Any) -> keras.Model | None:
    """Return the functional graph of a model or layer, or None.

    Models that override `call`, layers with a `CompositeRule` and the user's own
    layers without a rule have one if their call accepts symbolic tensors.
    """
    if isinstance(operation, keras.Model) and not _calls_by_itself(operation):
        if isinstance(operation, Functional):
            return operation
        return operation._functional
    if not is_readable(operation):
        return None
    return reading_of(operation, find_rule(operation) is not None).model


def is_read(operation: Any) -> bool:
    """Return whether an operation's functional graph is read from its call."""
    if isinstance(operation, keras.Model) and not _calls_by_itself(operation):
        return False
    return functional_of(operation) is not None


def is_readable(operation: Any) -> bool:
    """Return whether an operation's call may be readable as a functional model."""
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
    """Return whether a model has a `call` other than Functional's or Sequential's."""
    for kind in (Functional, keras.Sequential):
        if isinstance(model, kind):
            return type(model).call is not kind.call
    return True


def _is_bare(model: keras.Model) -> bool:
    return type(model).call is keras.Model.call


def inner_inputs(node: Any, inner: keras.Model) -> list[Any]:
    """Return the arguments of a nested model's call, in the order of its inputs.

    Args:
        node: The call.
        inner: `functional_of(node.operation)`.

    Returns:
        A list of symbolic tensors or constants.
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
    """Pair a call's output tensors with values.

    A call that was read from `call` may have fewer values than tensors; the
    tensors without one are empty.
    """
    strict = not is_read(node.operation)
    yield from zip(node.outputs, outputs, strict=strict)


def require_functional(model: Any, owner: str = "kprune") -> keras.Model:
    """Return the functional graph of `model`, or raise an error with remedies.

    Args:
        model: The argument to check.
        owner: The function that received it, for messages.
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
        f"{cause}. To fix this, use only layers and keras.ops in call() and "
        "call the model once; or build it with the functional API, as "
        f"{type(model).__name__}(inputs, outputs) that overrides only "
        "train_step(); or build a functional model from its blocks with "
        "keras.Model(x, block(x)) and copy the weights."
    )


def input_name(tensor: Any) -> str:
    """Return the name of a model input's input layer."""
    operation = tensor._keras_history.operation
    return tensor.name if operation is None else operation.name


def nodes(functional: keras.Model) -> Iterator[Any]:
    """Yield the calls of a functional model in execution order, without inputs.

    Calls of equal depth are sorted by name: Keras' own order changes when a
    model is saved and loaded, and group names depend on the order.
    """
    by_depth = functional._nodes_by_depth
    for depth in sorted(by_depth, reverse=True):
        calls = [n for n in by_depth[depth] if not n.is_input]
        yield from sorted(calls, key=lambda n: n.operation.name)


def layers_of(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """Yield every layer called in `model` once, nested models included."""
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


def names(model: keras.Model) -> set[str]:
    """Return the names of all operations of `model`, nested models included."""
    found = set()
    stack = [require_functional(model)]
    while stack:
        for operation in stack.pop().operations:
            found.add(operation.name)
            inner = functional_of(operation)
            if inner is not None:
                stack.append(inner)
    return found


def flat_inputs(functional: keras.Model, inputs: Any) -> list[Any]:
    """Return arrays in the order of `functional.inputs`, matched as `predict` does."""
    flat = functional._standardize_inputs(inputs)
    return [np.asarray(keras.ops.convert_to_numpy(x)) for x in flat]
