"""Layers with weights that the graph cannot analyse, and the work they do."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
from keras import layers

from kprune.graph.call import Call
from kprune.graph.labels import Labels
from kprune.graph.labels import Shape
from kprune.graph.record import TraceRecord
from kprune.graph.record import Work
from kprune.graph.registry import class_rule


@dataclasses.dataclass(frozen=True, eq=False)
class Opaque:
    """A layer with weights that is not analysed, so that its channels stay.

    Args:
        layer: The layer.
        why: Why its call is not analysed.
        counted: Whether its MACs are known from its sublayers.
    """

    layer: keras.layers.Layer
    why: str
    counted: bool

    @property
    def params(self) -> int:
        """Number of its weights."""
        return sum(math.prod(w.shape) for w in self.layer.weights)

    def __str__(self) -> str:
        macs = (
            "MACs counted from its layers"
            if self.counted
            else "MACs unknown, counted as 0"
        )
        return f"{self.params:,} weights, {macs}; {self.why}"


def work_inside(
    call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[Work] | None:
    """Count the work of a layer that is not analysed.

    Its call is run on symbolic tensors, and the work of its sublayers of known
    classes is counted.

    Args:
        call: The call of the layer.
        args: Positional arguments, with symbolic tensors.
        kwargs: Keyword arguments, likewise.

    Returns:
        The work, or None if it is unknown: the layer has no sublayer of a known
        class, or kernels of its own.
    """
    try:
        shapes = call.output_shapes
        return _work((call.layer, args, kwargs, shapes), call.layer)
    except Exception:  # User code may raise anything: the work stays unknown.
        return None


# A layer, the arguments of its call, with symbolic tensors, and output shapes.
_Seen = tuple[Any, tuple[Any, ...], dict[str, Any], list[Shape]]


def _work(seen: _Seen, owner: Any) -> list[Work] | None:
    """Return the work of a call if all its channels stay, or None if unknown."""
    layer, args, kwargs, _ = seen
    if class_rule(layer) is not None:
        work = _work_of_class(seen, owner)
        if work is not None:
            return work
    total: list[Work] = []
    if isinstance(layer, LOOPS):
        for part, given, count in _steps(layer, args, kwargs):
            outputs = _outputs(part.call, given, {})
            work = _work((part, given, {}, _shapes(outputs)), owner)
            if work is None:
                return None
            total += [
                dataclasses.replace(w, count=w.count * count) for w in work
            ]
        return total
    inside = {id(v) for part in layer._layers for v in part.variables}
    own = [v for v in layer.trainable_variables if id(v) not in inside]
    if any(len(v.shape) > 1 for v in own):
        return None
    parts = list(_known_parts(layer))
    if not parts:
        # A rule knows what its layer computes; scales count as nothing.
        return None if class_rule(layer) is None else []
    with _recorded(parts) as calls:

        def run(*args: Any, **kwargs: Any) -> Any:
            calls.clear()  # JAX runs this for several batch sizes.
            return layer.call(*args, **kwargs)

        _outputs(run, args, kwargs)
    for call in calls:
        total += _work(call, owner) or []
    return total if calls else None


def _outputs(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Return the symbolic outputs of a function of symbolic tensors."""

    def run(*args: Any, **kwargs: Any) -> Any:
        # Outside of a scope, TensorFlow refuses names such as "_cell".
        with keras.name_scope("work"):
            return function(*args, **kwargs)

    return keras.src.backend.compute_output_spec(run, *args, **kwargs)


LOOPS = (layers.TimeDistributed, layers.Bidirectional, layers.RNN)


def _steps(
    layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[tuple[Any, tuple[Any, ...], int]]:
    """Return the layers that a layer calls in a loop: `(layer, args, count)`.

    Backends differ in how often they run the body of a loop to trace it.
    """
    (x, *_) = [*args, *kwargs.values()]
    if isinstance(layer, layers.Bidirectional):
        both = (layer.forward_layer, layer.backward_layer)
        return [(one, (x,), 1) for one in both]
    floats = "float" in x.dtype and "float" in layer.compute_dtype
    dtype = layer.compute_dtype if floats else x.dtype
    one_step = keras.KerasTensor((1, *x.shape[2:]), dtype)
    count = x.shape[1] or 1
    if isinstance(layer, layers.TimeDistributed):
        return [(layer.layer, (one_step,), count)]
    states = keras.tree.map_structure(
        lambda s: keras.KerasTensor(s.shape, s.dtype),
        layer.get_initial_state(1),
    )
    return [(layer.cell, (one_step, states), count)]


def _known_parts(layer: Any) -> Iterator[Any]:
    for part in layer._layers:
        if class_rule(part) is not None:
            yield part
        else:
            yield from _known_parts(part)


@contextlib.contextmanager
def _recorded(parts: list[Any]) -> Iterator[list[_Seen]]:
    """Return a context in which the calls of these layers are recorded.

    Yields:
        A list that fills with calls.
    """
    calls: list[_Seen] = []

    def recorder(part: Any) -> Any:
        original = part.call

        def call(*args: Any, **kwargs: Any) -> Any:
            outputs = original(*args, **kwargs)
            given = keras.tree.map_structure(_symbolic, (args, kwargs))
            calls.append((part, *given, _shapes(outputs)))
            return outputs

        return call

    parts = list({id(p): p for p in parts}.values())
    # An instance may have a `call` of its own.
    before = [vars(part).get("call") for part in parts]
    for part in parts:
        part.call = recorder(part)
    try:
        yield calls
    finally:
        for part, call in zip(parts, before, strict=True):
            if call is None:
                del part.call
            else:
                part.call = call


def _shape(tensor: Any) -> tuple[int | None, ...]:
    return tuple(keras.src.backend.standardize_shape(tensor.shape))


def _shapes(outputs: Any) -> list[Shape]:
    return [_shape(y) for y in keras.tree.flatten(outputs)]


def _symbolic(value: Any) -> Any:
    is_tensor = hasattr(value, "shape") and hasattr(value, "dtype")
    if not is_tensor:
        return value
    dtype = keras.backend.standardize_dtype(value.dtype)
    return keras.KerasTensor(_shape(value), dtype)


def _labelled(value: Any) -> Any:
    return (
        Labels(_shape(value)) if isinstance(value, keras.KerasTensor) else value
    )


def _work_of_class(seen: _Seen, owner: Any) -> list[Work] | None:
    """Return the work that the rule of a layer's class counts, or None if it cannot."""
    layer, args, kwargs, shapes = seen
    args, kwargs = keras.tree.map_structure(_labelled, (args, kwargs))
    record = TraceRecord()
    call = Call(layer, args, kwargs, shapes, record)
    class_rule(layer).trace(call)
    if call.unknown and not record.work:
        return None
    return [
        Work(
            owner,
            work.count * math.prod(axis[0].size for axis in work.axes),
            work.variable,
        )
        for work in record.work
    ]
