"""One walk over a functional model that carries labels along every edge."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import keras

import kprune.graph.rules  # noqa: F401  (registers the rules)
from kprune.graph import walk
from kprune.graph.activations import probe_operation
from kprune.graph.call import FILTER
from kprune.graph.call import STATISTIC
from kprune.graph.call import Binding
from kprune.graph.call import Call
from kprune.graph.call import TraceRecord
from kprune.graph.call import Visit
from kprune.graph.channel_graph import ChannelGraph
from kprune.graph.labels import Labels
from kprune.graph.labels import Shape
from kprune.graph.likeness import alteration
from kprune.graph.opaque import Opaque
from kprune.graph.opaque import work_inside
from kprune.graph.registry import Rule
from kprune.graph.registry import find_rule
from kprune.graph.skipping import Skip

LEFT_OUT = "was left out of wrap()"
"""End of the reason given for pinned channels of layers skipped in `wrap()`."""


def trace(
    model: keras.Model, skip: Iterable[Any] | None = None
) -> ChannelGraph:
    """Find which channels of a model can only be removed together.

    Args:
        model: A functional or Sequential `keras.Model`, plain or wrapped by
            `kprune.wrap`, with any nesting of such models inside.
        skip: Layers, nested models, or names of either, whose channels must
            stay.

    Returns:
        A `ChannelGraph`. Its `groups` are the sets of coupled channels, with
        the variables they occur in, and the reasons why pinned ones stay.

    Raises:
        TypeError: If `model` is not a Keras model, or cannot be read as a
            functional one.
        ValueError: If a Sequential model is not built, or `skip` names a
            layer the model does not have.

    Example:

    ```python
    graph = kprune.trace(keras.applications.MobileNetV2(weights=None))
    print(graph)
    ```
    """
    functional = walk.require_functional(model, "trace()")
    tracer = Tracer(Skip(model, skip))
    inputs = [
        Labels(tuple(t.shape), why=f"model input '{walk.input_name(t)}'")
        for t in functional.inputs
    ]
    outputs = tracer.trace_functional(functional, inputs)
    names = functional.output_names
    for name, labels in zip(names, outputs, strict=True):
        for factor in labels.factors:
            why = f"feeds the model output '{name}'"
            tracer.record.slots.pin(factor, why, foremost=True)
    tracer.finish()
    return ChannelGraph(model, tracer)


@dataclasses.dataclass(slots=True)
class NestedVisit:
    """The first call of a nested model, whose labels later calls join."""

    inputs: list[Labels]
    outputs: list[Labels]


class Tracer:
    """Collects labels for all tensors and variables of a model.

    Args:
        skip: Layers whose channels are pinned.
    """

    def __init__(self, skip: Skip) -> None:
        self.record = TraceRecord()
        self.visits: dict[int, Visit] = {}
        self.nested: dict[int, NestedVisit] = {}
        self.wrappers: list[walk.Transparent] = []
        self.read: list[keras.layers.Layer] = []
        self.opaque: dict[int, Opaque] = {}
        self._skip = skip
        self._within = 0  # Number of skipped models around the current call.
        self._first: dict[int, Visit] = {}

    # -- walking -----------------------------------------------------------

    def trace_functional(
        self, functional: Any, inputs: list[Labels]
    ) -> list[Labels]:
        state = {
            id(t): labels
            for t, labels in zip(functional.inputs, inputs, strict=True)
        }
        for node in walk.nodes(functional):
            inner = walk.functional_of(node.operation)
            if inner is not None:
                given = [
                    state[id(x)] if isinstance(x, keras.KerasTensor) else x
                    for x in walk.inner_inputs(node, inner)
                ]
                outputs = self._trace_nested(node, inner, given)
            else:
                args, kwargs = node.arguments.convert(
                    lambda x: (
                        state[id(x)] if isinstance(x, keras.KerasTensor) else x
                    )
                )
                outputs = self._trace_operation(node, args, kwargs)
            for tensor, labels in walk.with_outputs(node, outputs):
                state[id(tensor)] = labels
        return [state[id(t)] for t in functional.outputs]

    def _trace_nested(
        self, node: Any, inner: Any, values: list[Any]
    ) -> list[Labels]:
        given = [
            self._enter(inner, labels, tuple(t.shape))
            for labels, t in zip(values, inner.inputs, strict=True)
        ]
        first = self.nested.get(id(inner))
        if first is None:
            if walk.is_read(node.operation) and not find_rule(node.operation):
                self.read.append(node.operation)
            skipped = node.operation in self._skip
            self._within += skipped
            outputs = self.trace_functional(inner, given)
            self._within -= skipped
            first = self.nested[id(inner)] = NestedVisit(given, outputs)
        else:
            self._same_labels(first.inputs, given, f"model '{inner.name}'")
        # The same model may be called on images of different sizes.
        return [
            labels.replace(shape=tuple(t.shape))
            for t, labels in walk.with_outputs(node, first.outputs)
        ]

    def _enter(self, inner: Any, given: Any, shape: Shape) -> Labels:
        """Return the labels of an input in the shape the nested model declares."""
        if not isinstance(given, Labels):
            return Labels(shape, why=f"constant input of model '{inner.name}'")
        call = Call(inner, (given,), {}, [shape], self.record)
        if given.rank != len(shape):
            return call.pin_all(f"model '{inner.name}' reshapes its input")[0]
        unknown = [a for a, n in enumerate(shape) if n is None]
        why = f"model '{inner.name}' does not know the size of this axis"
        return call.settle(given, unknown, why).replace(shape=shape)

    def _same_labels(
        self, old: list[Labels], new: list[Labels], what: str
    ) -> None:
        why = f"{what} is called on tensors of different origin"
        if len(old) != len(new):
            for labels in (*old, *new):
                for factor in labels.factors:
                    self.record.slots.pin(factor, why)
            return
        for a, b in zip(old, new, strict=True):
            shapes = [f.shape for f in a.factors] == [
                f.shape for f in b.factors
            ]
            if shapes and a.zero <= b.zero:
                for f, g in zip(a.factors, b.factors, strict=True):
                    self.record.slots.union(f, g, why)
            else:
                for factor in (*a.factors, *b.factors):
                    self.record.slots.pin(factor, why)

    def _trace_operation(
        self, node: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[Labels]:
        operation = walk.unwrap(node.operation)
        if operation is not node.operation and id(operation) not in self._first:
            self.wrappers.append(node.operation)
        kwargs = self._without_masks(kwargs)
        shapes = [tuple(t.shape) for t in node.outputs]
        call = Call(operation, args, kwargs, shapes, self.record)
        rule = find_rule(operation)
        counted = len(self.record.work)
        outputs = self._apply(rule, call)
        if call.unknown and len(self.record.work) == counted:
            self._note(call, node)
        visit = Visit(
            operation, args, kwargs, outputs, rule, call.constants, call.inner
        )
        self.visits[id(node)] = visit
        first = self._first.setdefault(id(operation), visit)
        reshapes = rule is not None and rule.reshapes(operation)
        if first is not visit and reshapes:
            # All calls share one configuration, so all must shrink alike.
            self._same_labels(first.inputs, visit.inputs, repr(call))
        if self._within or operation in self._skip:
            for labels in outputs:
                call.pin(labels.factors, "named in skip")
            for binding in self.record.bindings.values():
                if binding.layer is operation:
                    self._pin_filters(binding)
        return outputs

    def _pin_filters(self, binding: Binding) -> None:
        for axis in binding.axes.values():
            for labels in axis.labels if axis.role == FILTER else ():
                self.record.slots.pin(labels, "named in skip")

    def _note(self, call: Call, node: Any) -> None:
        """Record a layer that is not analysed, and count its work."""
        layer = call.operation
        if not isinstance(layer, keras.layers.Layer) or not layer.weights:
            return
        arguments = node.arguments
        work = work_inside(call, arguments.args, arguments.kwargs)
        self.record.work += work or []
        unread = find_rule(layer) is None or walk.is_readable(layer)
        why = alteration(layer) or (_unread(layer) if unread else call.unknown)
        self.opaque[id(layer)] = Opaque(layer, why, work is not None)

    def _without_masks(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        mask = kwargs.get("mask")
        for labels in keras.tree.flatten(mask):
            if isinstance(labels, Labels):
                for factor in labels.factors:
                    self.record.slots.pin(factor, "used as a mask")
        return {k: v for k, v in kwargs.items() if k != "mask"}

    def _apply(self, rule: Rule | None, call: Call) -> list[Labels]:
        if rule is None:
            return self._unknown(call)
        outputs = rule.trace(call)
        outputs = [outputs] if isinstance(outputs, Labels) else list(outputs)
        if len(outputs) != len(call.output_shapes):
            raise ValueError(
                f"The rule {type(rule).__name__} returned labels of "
                f"{len(outputs)} tensors for {call!r}, which has "
                f"{len(call.output_shapes)} outputs."
            )
        for labels, shape in zip(outputs, call.output_shapes, strict=True):
            for factor in labels.factors:
                fits = len(factor.shape) == len(shape) and all(
                    n in (1, m)
                    for n, m in zip(factor.shape, shape, strict=True)
                )
                if not fits:
                    raise ValueError(
                        f"The rule {type(rule).__name__} returned labels of "
                        f"shape {factor.shape} for {call!r}, whose output has "
                        f"shape {shape}. Every axis must have size 1 or the "
                        "size of the output."
                    )
        return outputs

    def _unknown(self, call: Call) -> list[Labels]:
        operation = call.operation
        kind = type(operation).__name__
        if isinstance(operation, keras.layers.Lambda):
            why = f"Lambda '{operation.name}' may do anything to channels"
            return call.pin_all(why)
        if isinstance(operation, keras.Model):
            why = f"nested model '{operation.name}' ({kind}) is not functional"
            return call.pin_all(f"{why}: {_unread(operation)}")
        if isinstance(operation, keras.layers.Layer):
            why = alteration(operation) or (
                f"layer '{operation.name}' has no rule: register one with "
                f"@kprune.register_rule({kind}); {_unread(operation)}"
            )
            return call.pin_all(why)
        return self._unknown_operation(call)

    def _unknown_operation(self, call: Call) -> list[Labels]:
        """Probe functions of one tensor; pin the inputs of all others."""
        kind = type(call.operation).__name__
        single = len(call.inputs) == 1 and call.output_shapes == [
            call.input.shape
        ]
        if single and call.input.factors:
            found = probe_operation(call.operation, call.args, call.kwargs)
            if found.elementwise:
                return [
                    call.pass_function(call.input, found, f"operation {kind}")
                ]
        return call.pin_all(f"operation {kind} has no rule")

    # -- finishing -----------------------------------------------------------

    def finish(self) -> None:
        if not self.wrappers:
            return
        masked: set[tuple[int, Any]] = set()
        for wrapper in self.wrappers:
            masked |= wrapper.masked_axes()
        for binding in self.record.bindings.values():
            for axis, bound in binding.axes.items():
                if bound.role == STATISTIC:
                    continue
                if (id(binding.variable), axis) not in masked:
                    self._pin_left_out(binding.layer, bound.labels)
        for entry in self.record.mask_inputs.values():
            if (id(entry.layer), entry.name) not in masked:
                self._pin_left_out(entry.layer, entry.labels)

    def _pin_left_out(self, layer: Any, arrays: list[Any]) -> None:
        for labels in arrays:
            why = f"layer '{layer.name}' {LEFT_OUT}"
            self.record.slots.pin(labels, why)


def _unread(layer: keras.layers.Layer) -> str:
    """Return why the call of a layer cannot be read as a functional model."""
    if walk.is_readable(layer):
        return walk.reading_of(layer).cause
    return "its call is not analysed"
