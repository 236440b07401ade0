"""Reading of layers and subclassed models as functional models.

This works if their `call` accepts symbolic tensors.
"""

from __future__ import annotations

import contextlib
import dataclasses
import weakref
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kprune.graph.batches import BATCH
from kprune.graph.batches import UnreadableError
from kprune.graph.batches import for_any_batch
from kprune.graph.batches import given_to
from kprune.graph.batches import input_like
from kprune.graph.batches import nodes_of
from kprune.graph.foreign import translated
from kprune.graph.likeness import alike
from kprune.graph.likeness import outputs_of
from kprune.graph.likeness import random_tensor
from kprune.graph.modes import PartCall
from kprune.graph.modes import refuse_fixed_inference
from kprune.graph.values import read


@dataclasses.dataclass(frozen=True)
class Reading:
    """The result of reading a call.

    Args:
        model: The functional model over the same layers, or None.
        cause: Why there is no model.
    """

    model: keras.Model | None
    cause: str = ""


@dataclasses.dataclass(frozen=True)
class _Known:
    """A reading, and what it depends on.

    Args:
        counts: Numbers of weights and of calls. Building adds weights.
        calls: The distinct calls.
        traits: What decides whether its layers act in training.
        reading: The result.
    """

    counts: tuple[int, int]
    calls: set[tuple[Any, ...]]
    traits: list[tuple[bool, Any]]
    reading: Reading


_READINGS: weakref.WeakKeyDictionary[Any, _Known] = weakref.WeakKeyDictionary()


def reading_of(layer: Any, trusted: bool = False) -> Reading:
    """Read the call of a layer or subclassed model and cache the result.

    It is read again when it has more weights, or was called in another way.

    Args:
        layer: A layer that is called in a functional model, or a built model.
            It is not changed.
        trusted: Whether to skip the comparison of both on a random sample,
            because the layer has a `CompositeRule`.
    """
    known = _READINGS.get(layer)
    if known and known.reading.model is None and known.traits != _traits(layer):
        known = None  # The cause may be mended.
    if known is not None and known.counts == _counts(layer):
        return known.reading
    calls = _distinct_calls(layer)
    reading = None
    if known is not None and known.counts[0] == len(layer.variables):
        reading = known.reading if known.calls == calls else None
    if reading is None:
        try:
            with translated(), _several_results():
                reading = Reading(_read(layer, trusted))
        except UnreadableError as error:
            reading = Reading(None, str(error))
    _READINGS[layer] = _Known(_counts(layer), calls, _traits(layer), reading)
    return reading


def _counts(layer: Any) -> tuple[int, int]:
    return len(layer.variables), len(layer._inbound_nodes)


def _traits(layer: Any) -> list[tuple[bool, Any]]:
    parts = layer._flatten_layers()
    return [(part.trainable, getattr(part, "rate", None)) for part in parts]


def _distinct_calls(layer: Any) -> set[tuple[Any, ...]]:
    """Return the calls of a layer by their tensors' shapes and other arguments."""
    return {
        (
            _rest(args, kwargs),
            *((tuple(t.shape), t.dtype) for t in tensors_of(args, kwargs)),
        )
        for args, kwargs in _calls(layer)
    }


def _calls(layer: Any) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Return the symbolic arguments of all calls of a layer."""
    nodes = layer._inbound_nodes
    return [(n.arguments.args, n.arguments.kwargs) for n in nodes]


def tensors_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """Return the symbolic tensors among the arguments of a call."""
    flat = keras.tree.flatten((args, kwargs))
    return [x for x in flat if isinstance(x, keras.KerasTensor)]


def _read(layer: Any, trusted: bool) -> keras.Model:
    args, kwargs = _arguments(layer)
    given = tensors_of(args, kwargs)
    if not given:
        raise UnreadableError("it is called on no tensor")
    if any(_is_optional(t) for t in given):
        raise UnreadableError(
            "it is called on an optional input, maybe on None"
        )
    if layer.activity_regularizer is not None:
        raise UnreadableError("it has an activity_regularizer")
    fixed = any(t.shape[0] and t.shape[0] % BATCH for t in given)
    inputs = [
        input_like(
            t,
            (t.shape[0] if fixed else BATCH, *t.shape[1:]),
            t.name if isinstance(layer, keras.Model) else None,
        )
        for t in given
    ]
    tensors = {id(t): x for t, x in zip(given, inputs, strict=True)}
    args, kwargs = (
        _filled(layer, args, tensors),
        _filled(layer, kwargs, tensors),
    )
    calls: list[PartCall] = []
    model = _called(layer, inputs, args, kwargs, calls)
    _refuse_own_weights(layer, model)
    _refuse_frozen_weights(
        layer, model, lambda: _called(layer, inputs, args, kwargs)
    )
    _refuse_missing_outputs(layer, model)
    batch = None if fixed else 1
    if not layer._call_has_training_arg:
        refuse_fixed_inference(calls, batch)
    else:
        steps = _steps(model)
        for training in (False, True):
            calls.clear()
            other = _called(
                layer, inputs, args, {**kwargs, "training": training}, calls
            )
            if training:
                refuse_fixed_inference(calls, batch)
            if _steps(other) != steps:
                again = _called(layer, inputs, args, kwargs)
                when = (
                    "behaves differently in training"
                    if _steps(again) == steps
                    else "does something else at every call"
                )
                raise UnreadableError(f"it {when}")
    if not fixed:
        model = for_any_batch(model)
    nested = not isinstance(layer, keras.Model) or layer._inbound_nodes
    if nested and not trusted:
        values = {
            id(x): random_tensor((batch or x.shape[0], *x.shape[1:]), x.dtype)
            for x in inputs
        }
        _refuse_other_numbers(layer, args, kwargs, values, model)
    return model


def _is_optional(tensor: Any) -> bool:
    history = getattr(tensor, "_keras_history", None)
    return history is not None and getattr(history.operation, "optional", False)


# -- arguments ----------------------------------------------------------------


def _arguments(layer: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the call arguments of a layer, with tensors as `KerasTensor`."""
    if layer._inbound_nodes:
        calls = _calls(layer)
        rests = {_rest(*call) for call in calls}
        if len(rests) > 1:
            raise UnreadableError("it is called with different arguments")
        args, kwargs = calls[0]
        if any(tensors_of((), {"mask": k.get("mask")}) for _, k in calls):
            raise UnreadableError("it is called with a mask")
        return _of_any_size(calls, args, _without_defaults(kwargs))
    functional = getattr(layer, "_functional", layer)
    if hasattr(functional, "_nodes_by_depth"):
        return (functional.input,), {}
    shapes = layer._build_shapes_dict
    if not shapes:
        raise UnreadableError(
            "it is not built: call it once on data, or on keras.Input(...)"
        )
    name, shape = next(iter(shapes.items()))
    return (_specification(shape, name.removesuffix("_shape")),), {}


def _of_any_size(
    calls: list[tuple[Any, ...]], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Set axes to unknown size that differ between the calls of a shared layer."""
    every = [tensors_of(a, _without_defaults(k)) for a, k in calls]
    common = {}
    for tensors in zip(*every, strict=True):
        first = tensors[0]
        if len({len(t.shape) for t in tensors}) > 1:
            raise UnreadableError("it is called on tensors of different rank")
        shape = tuple(
            sizes[0] if len(set(sizes)) == 1 else None
            for sizes in zip(*(t.shape for t in tensors), strict=True)
        )
        common[id(first)] = (
            first
            if shape == tuple(first.shape)
            else keras.KerasTensor(
                shape,
                first.dtype,
                sparse=first.sparse,
                ragged=first.ragged,
                name=first.name,
            )
        )

    def swap(value: Any) -> Any:
        return common.get(id(value), value)

    return keras.tree.map_structure(swap, (args, kwargs))


def _specification(shapes: Any, name: str) -> Any:
    """Return symbolic tensors of the shapes a model was built with."""
    if isinstance(shapes, dict):
        return {k: _specification(v, k) for k, v in shapes.items()}
    if all(n is None or isinstance(n, int) for n in shapes):
        shape = (None, *shapes[1:])
        return keras.KerasTensor(shape, keras.config.floatx(), name=name)
    return [_specification(v, f"{name}_{n}") for n, v in enumerate(shapes)]


def _without_defaults(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in kwargs.items() if k not in ("training", "mask")}


def _rest(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Return the arguments of a call except tensors, as text to compare."""
    structure = (args, _without_defaults(kwargs))
    return repr(
        keras.tree.map_structure(
            lambda x: "x" if isinstance(x, keras.KerasTensor) else x, structure
        )
    )


def _filled(layer: Any, structure: Any, tensors: dict[int, Any]) -> Any:
    """Replace tensors and cast them as the layer's `__call__` would."""

    def fill(value: Any) -> Any:
        if not isinstance(value, keras.KerasTensor):
            return value
        x, wanted = tensors[id(value)], layer.compute_dtype
        floats = "float" in x.dtype and "float" in (wanted or "")
        cast = floats and layer.autocast and x.dtype != wanted
        return keras.ops.cast(x, wanted) if cast else x

    return keras.tree.map_structure(fill, structure)


# -- the call -------------------------------------------------------------------


def _called(
    layer: Any,
    inputs: list[Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    calls: list[PartCall] | None = None,
) -> keras.Model:
    """Return the model that a call defines, and add the calls in it to `calls`."""
    try:
        with _symbolic_constants(inputs, [] if calls is None else calls):
            outputs = _tensors_only(layer.call(*args, **kwargs))
        given = inputs if len(inputs) > 1 else inputs[0]
        if isinstance(layer, keras.Model) and not layer._inbound_nodes:
            given = args[0]
        return keras.Model(given, outputs, name=layer.name)
    except Exception as error:  # User code may raise anything.
        text = " ".join(str(error).split())
        cause = text if len(text) < 200 else f"{text[:197]}..."
        raise UnreadableError(f"its call is not symbolic: {cause}") from None


def _tensors_only(outputs: Any) -> Any:
    """Drop results of a call that are not tensors, such as None for scores."""
    flat = keras.tree.flatten(outputs)
    tensors = [y for y in flat if isinstance(y, keras.KerasTensor)]
    return outputs if len(tensors) == len(flat) else tensors


@contextlib.contextmanager
def _calling(call: Callable[..., Any]) -> Iterator[None]:
    """Return a context in which all layers are called by a function."""
    original = keras.layers.Layer.__call__
    keras.layers.Layer.__call__ = call
    try:
        yield
    finally:
        keras.layers.Layer.__call__ = original


@contextlib.contextmanager
def _several_results() -> Iterator[None]:
    """Return a context in which symbolic calls may return more than tensors.

    Keras rejects such results, because a node has tensors only. Here the call
    is read as a model of its own, and its other results are passed on unchanged.
    """
    original = keras.layers.Layer.__call__

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return original(self, *args, **kwargs)
        except ValueError as error:
            if not tensors_of(args, kwargs) or "must be tensors" not in str(
                error
            ):
                raise
            return _as_model(self, args, kwargs)

    with _calling(call):
        yield


@contextlib.contextmanager
def _symbolic_constants(
    inputs: list[Any], calls: list[PartCall]
) -> Iterator[None]:
    """Return a context in which calls of layers on constants become nodes.

    An example are embeddings of positions. Keras would compute such a call at
    once, and its weights would be constants.

    Args:
        inputs: The inputs of the model that is read. Nodes must depend on one.
        calls: A list that fills with the calls.
    """
    numbers = [x for x in inputs if x.dtype != "string"]
    original = keras.layers.Layer.__call__
    within: list[Any] = []

    def symbolic(value: Any) -> Any:
        if not keras.ops.is_tensor(value) and not isinstance(value, np.ndarray):
            return value
        kind = keras.backend.standardize_dtype(value.dtype)
        nothing = keras.ops.sum(keras.ops.zeros_like(numbers[0]))
        return keras.ops.add(keras.ops.cast(nothing, kind), value)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        direct = not within and numbers and self.variables
        if direct and not tensors_of(args, kwargs):
            args, kwargs = keras.tree.map_structure(symbolic, (args, kwargs))
        if not within:
            calls.append((self, args, dict(kwargs)))
        within.append(self)
        try:
            return original(self, *args, **kwargs)
        finally:
            within.pop()

    with _calling(call):
        yield


def _as_model(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    given = tensors_of(args, kwargs)
    inputs = [input_like(t, t.shape, None) for t in given]
    tensors = {id(t): x for t, x in zip(given, inputs, strict=True)}
    outputs = layer.call(
        *_filled(layer, args, tensors), **_filled(layer, kwargs, tensors)
    )
    model = keras.Model(inputs, _tensors_only(outputs), name=layer.name)
    if all(t.shape[0] == BATCH for t in given):
        model = for_any_batch(model)
    results = iter(keras.tree.flatten(model(given)))
    return keras.tree.map_structure(
        lambda y: next(results) if isinstance(y, keras.KerasTensor) else y,
        outputs,
    )


def _refuse_missing_outputs(layer: Any, model: keras.Model) -> None:
    """Raise if outputs that Keras knows are missing, unless they are empty."""
    if layer._inbound_nodes:
        told = layer._inbound_nodes[0].outputs
        rest = told[len(model.outputs) :]
        if len(model.outputs) > len(told) or not all(
            0 in t.shape for t in rest
        ):
            raise UnreadableError(
                "its call returns other tensors than its output spec says"
            )


def _refuse_own_weights(layer: Any, model: keras.Model) -> None:
    inside = {id(v) for part in layer._layers for v in part.variables}
    own = [v.name for v in layer.variables if id(v) not in inside]
    if own:
        named = ", ".join(f"'{name}'" for name in dict.fromkeys(own))
        raise UnreadableError(f"it has weights of its own: {named}")
    known = {id(v) for v in layer.variables}
    if any(id(v) not in known for v in model.variables):
        raise UnreadableError("its call creates new layers")


def _refuse_frozen_weights(
    layer: Any, model: keras.Model, read_again: Callable[[], keras.Model]
) -> None:
    """Raise if the call made constants of weights, which would not be trained.

    This happens where a call computes with weights but no symbolic tensor. The
    call is read again with other weights: then such constants change.
    """
    before = _constants(model)
    if not before:
        return  # To read the call again takes as long as the first time.

    def changes(variables: Sequence[Any]) -> bool:
        with keras.StatelessScope([(v, _varied(v)) for v in variables]):
            try:
                after = _constants(read_again())
            except UnreadableError:
                return True
        return len(after) != len(before) or not all(map(_same, before, after))

    fixed = _fixed(layer)
    frozen = [
        v
        for v in before
        if isinstance(v, keras.Variable) and id(v) not in fixed
    ]
    if not frozen:
        floats = [
            v
            for v in layer.variables
            if "float" in v.dtype and id(v) not in fixed
        ]
        if not changes(floats):
            return
        if changes([]):
            raise UnreadableError("it does something else at every call")
        while len(floats) > 1:
            half = floats[: len(floats) // 2]
            floats = half if changes(half) else floats[len(half) :]
        frozen = floats
    raise UnreadableError(
        f"it uses weight '{frozen[0].path}' outside of the calls of its layers, "
        "so the weight would become a constant: let a layer compute with it, "
        "such as keras.layers.ReversibleEmbedding for a head tied to an embedding"
    )


def _fixed(layer: Any) -> set[int]:
    """Return the ids of frozen weights in a trainable layer, such as fixed tables.

    They may become constants. A layer that is frozen as a whole has none: such
    layers are often made trainable again. Nor are statistics among them: no
    optimizer trains them, but they change.
    """
    if not layer.trainable:
        return set()
    return {
        id(v)
        for part in layer._flatten_layers()
        for v in part._trainable_variables
        if not v.trainable
    }


def _constants(model: keras.Model) -> list[Any]:
    """Return all arrays, fractions and variables given to the calls of a model."""
    given = [
        (n.arguments.args, n.arguments.kwargs, given_to(n.operation))
        for n in nodes_of(model)
    ]
    return [
        x if isinstance(x, float | keras.Variable) else read(x)
        for x in keras.tree.flatten(given)
        if isinstance(x, float | np.ndarray | np.generic | keras.Variable)
        or keras.ops.is_tensor(x)
    ]


def _same(a: Any, b: Any) -> bool:
    """Return whether two constants are equal; not a number is like itself."""
    if isinstance(a, keras.Variable) or isinstance(b, keras.Variable):
        return a is b
    a, b = np.asarray(a), np.asarray(b)
    return np.array_equal(a, b, equal_nan="float" in a.dtype.name)


def _varied(variable: Any) -> Any:
    value = read(variable).astype("float32")
    noise = np.random.default_rng(0).random(value.shape, dtype="float32")
    return keras.ops.convert_to_tensor(value + noise, dtype=variable.dtype)


def _steps(model: keras.Model) -> list[tuple[Any, ...]]:
    """Return the operations of a model and their wiring, to compare."""
    numbers: dict[int, int] = {id(t): n for n, t in enumerate(model.inputs)}
    steps: list[tuple[Any, ...]] = []
    for node in nodes_of(model):
        operation = node.operation
        layer = isinstance(operation, keras.layers.Layer)
        what: Any = id(operation)
        if not layer:
            what = (type(operation).__name__, repr(given_to(operation)))
        given = keras.tree.map_structure(
            lambda x: (
                numbers[id(x)] if isinstance(x, keras.KerasTensor) else repr(x)
            ),
            (node.arguments.args, _without_defaults(node.arguments.kwargs)),
        )
        steps.append((what, repr(given)))
        for tensor in node.outputs:
            numbers[id(tensor)] = len(numbers)
    steps.append(tuple(numbers[id(t)] for t in model.outputs))
    return steps


def _refuse_other_numbers(
    layer: Any,
    args: Any,
    kwargs: Any,
    values: dict[int, Any],
    model: keras.Model,
) -> None:
    """Raise if layer and model compute different outputs on a random sample."""

    def fill(x: Any) -> Any:
        if not isinstance(x, keras.KerasTensor):
            return x
        history = x._keras_history.operation
        cast = not isinstance(history, keras.layers.InputLayer)
        source = history._inbound_nodes[-1].arguments.args[0] if cast else x
        return values[id(source)]

    try:
        with keras.StatelessScope():
            filled = keras.tree.map_structure(fill, (args, kwargs))
            expected = outputs_of(layer, *filled[0], **filled[1])
            expected = expected[: len(model.outputs)]
            flat = list(values.values())
            found = outputs_of(model, flat if len(flat) > 1 else flat[0])
    except Exception as error:  # User code may raise anything.
        text = " ".join(str(error).split())[:200]
        raise UnreadableError(f"it could not be tried out: {text}") from None
    if not alike(expected, found):
        raise UnreadableError(
            "the model read from its call computes something else"
        )
