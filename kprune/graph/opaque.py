"""Layers with weights that the graph cannot analyse, and the work they do."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import keras

from kprune.graph.call import Call
from kprune.graph.labels import Labels
from kprune.graph.record import TraceRecord
from kprune.graph.record import Work
from kprune.graph.registry import class_rule


@dataclasses.dataclass(frozen=True, eq=False)
class Opaque:
    """A layer with weights and no rule, so that its channels stay.

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
    """Count the work of a layer without a rule.

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
    layer = call.layer
    if class_rule(layer) is not None:
        return _work_of(
            (layer, call.args, call.kwargs, call.output_shapes), call
        )
    inside = {id(v) for part in layer._layers for v in part.variables}
    own = [v for v in layer.trainable_variables if id(v) not in inside]
    parts = list(_known_parts(layer))
    if not parts or any(len(v.shape) > 1 for v in own):
        return None
    try:
        with _recorded(parts) as calls:

            def run(*args: Any, **kwargs: Any) -> Any:
                calls.clear()  # JAX runs this for several batch sizes.
                return layer.call(*args, **kwargs)

            keras.src.backend.compute_output_spec(run, *args, **kwargs)
        work = [entry for seen in calls for entry in _work_of(seen, call)]
    except Exception:  # User code may raise anything: the work stays unknown.
        return None
    return work if calls else None


def _known_parts(layer: Any) -> Iterator[Any]:
    for part in layer._layers:
        if class_rule(part) is not None:
            yield part
        else:
            yield from _known_parts(part)


@contextlib.contextmanager
def _recorded(parts: list[Any]) -> Iterator[list[tuple[Any, ...]]]:
    """Return a context in which the calls of these layers are recorded.

    Yields:
        A list that fills with tuples `(layer, args, kwargs, output shapes)`,
        with tensors as `Labels`.
    """
    calls: list[tuple[Any, ...]] = []

    def recorder(part: Any) -> Any:
        original = part.call

        def call(*args: Any, **kwargs: Any) -> Any:
            outputs = original(*args, **kwargs)
            given = keras.tree.map_structure(_bare, (args, kwargs))
            shapes = [_shape(y) for y in keras.tree.flatten(outputs)]
            calls.append((part, *given, shapes))
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


def _bare(value: Any) -> Any:
    is_tensor = hasattr(value, "shape") and hasattr(value, "dtype")
    return Labels(_shape(value)) if is_tensor else value


def _work_of(seen: tuple[Any, ...], owner: Call) -> list[Work]:
    """Return the work of a call of a known class if all its channels stay."""
    layer, args, kwargs, shapes = seen
    record = TraceRecord()
    args, kwargs = keras.tree.map_structure(
        lambda x: Labels(x.shape) if isinstance(x, Labels) else x,
        (args, kwargs),
    )
    class_rule(layer).trace(Call(layer, args, kwargs, shapes, record))
    return [
        Work(
            owner.layer,
            work.count * math.prod(axis[0].size for axis in work.axes),
            work.variable,
        )
        for work in record.work
    ]
