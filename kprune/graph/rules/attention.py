"""Attention, in which heads and the channels within heads can be removed."""

from __future__ import annotations

import abc
import inspect
import math
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import layers
from keras.src import backend
from keras.src import ops

from kprune.graph.call import FILTER
from kprune.graph.call import INPUT
from kprune.graph.call import SCALE
from kprune.graph.call import Axis
from kprune.graph.call import Call
from kprune.graph.kept import Kept
from kprune.graph.labels import Labels
from kprune.graph.labels import on_axis
from kprune.graph.record import Visit
from kprune.graph.registry import Rule
from kprune.graph.registry import register_rule
from kprune.graph.rules.contraction import contract
from kprune.graph.rules.contraction import masked_axis
from kprune.graph.rules.contraction import untangle

Arrays = list[np.ndarray]


def _given(call: Call) -> dict[str, Any]:
    """Return the call arguments by name."""
    signature = inspect.signature(type(call.operation).call)
    bound = signature.bind(call.operation, *call.args, **call.kwargs)
    return bound.arguments


def _default_scale(size: int, dtype: str) -> float:
    """Return `1 / sqrt(size)`, rounded as the backend does for attention scores.

    TensorFlow converts Python numbers to float32, even for float64 tensors.
    """
    value = ops.cast(
        1.0 / math.sqrt(size), backend.result_type(dtype, "float32")
    )
    return float(ops.convert_to_numpy(value))


def _pin_masks(call: Call, given: dict[str, Any]) -> None:
    for name, value in given.items():
        if isinstance(value, Labels) and (
            name.endswith("mask") or name == "bias"
        ):
            call.pin(value.factors, f"{name} of {call!r}")


def _features(call: Call, given: Any) -> Labels:
    """Return the input with nothing removable along any but its last axis."""
    x = call.labels_of(given)
    why = f"{call!r} compares the positions along this axis"
    return call.settle(x, range(x.rank - 1), why)


def _slots(call: Call, variable: Any, axis: int) -> Arrays:
    """Return the slots of a producer's axis, or none if its size is 1."""
    return [call.filters(variable, axis)] if variable.shape[axis] > 1 else []


def _project(
    call: Call, dense: Any, reads: Axis, heads: Arrays, parts: Arrays
) -> None:
    """Bind a projection of shape (features, heads, parts)."""
    produced = [Axis(heads, FILTER), Axis(parts, FILTER)]
    call.bind(dense._kernel, {0: reads, 1: produced[0], 2: produced[1]})
    call.bind(dense.bias, {0: produced[0], 1: produced[1]})


def _multiply(
    call: Call,
    positions: Iterable[int | None],
    *axes: tuple[Arrays, int | None],
) -> None:
    """Count one multiplication for each position and combination of `axes`.

    Args:
        call: The traced call.
        positions: Sizes of the other axes.
        *axes: Labels of an axis (empty if nothing is removable) and its size.
    """
    free = [size for labels, size in axes if not labels]
    call.work(
        None, [*positions, *free], [labels for labels, _ in axes if labels]
    )


class _HeadsRule(Rule):
    """Layers that project query, key and value to heads, and merge the heads."""

    def trace(self, call: Call) -> Labels | list[Labels]:
        layer, given = call.layer, _given(call)
        _pin_masks(call, given)
        query = _features(call, given["query"])
        value = _features(call, given["value"])
        key = value
        if given.get("key") is not None:
            key = _features(call, given["key"])
        last = query.rank - 1
        reads = call.one_axis(query, last)
        heads, key_heads, parts, value_parts = self.inner_axes(call)
        query_axis = Axis(reads, INPUT, last)
        _project(call, layer._query_dense, query_axis, heads, parts)
        key_axis = Axis(call.one_axis(key, last), INPUT)
        _project(call, layer._key_dense, key_axis, key_heads, parts)
        value_axis = Axis(call.one_axis(value, last), INPUT)
        _project(call, layer._value_dense, value_axis, key_heads, value_parts)
        if getattr(layer, "_use_gate", False) or getattr(
            layer, "use_gate", False
        ):
            _project(call, layer._gate_dense, query_axis, heads, value_parts)
        outgoing = self.outputs(call, reads)
        dense = layer._output_dense
        axes = {n + 2: Axis(a, FILTER) for n, a in enumerate(outgoing)}
        call.bind(
            dense._kernel,
            {0: Axis(heads, INPUT), 1: Axis(value_parts, INPUT), **axes},
        )
        call.bind(dense.bias, {a - 2: axis for a, axis in axes.items()})
        self._pin_heads_of_masks(call, given)
        self._count(call, query, key, (heads, parts, value_parts))
        return self._results(call, query, outgoing, heads)

    @abc.abstractmethod
    def inner_axes(self, call: Call) -> tuple[Arrays, Arrays, Arrays, Arrays]:
        """Return the labels of heads, key/value heads, key and value channels."""

    @abc.abstractmethod
    def outputs(self, call: Call, reads: Arrays) -> list[Arrays]:
        """Return the labels of the output axes after the sequence axes."""

    @staticmethod
    def _pin_heads_of_masks(call: Call, given: dict[str, Any]) -> None:
        mask = given.get("attention_mask")
        shape: tuple[Any, ...] = getattr(mask, "shape", ())
        if len(shape) > 3 and shape[-3] != 1:
            kernel = call.layer._query_dense._kernel
            why = f"attention_mask of {call!r} differs between heads"
            call.pin(call.bound(kernel, 1), why)

    @staticmethod
    def _count(
        call: Call,
        query: Labels,
        key: Labels,
        inner: tuple[Arrays, Arrays, Arrays],
    ) -> None:
        layer = call.layer
        here, there = query.shape[1:-1], key.shape[1:-1]
        dense = [(layer._query_dense, here), (layer._key_dense, there)]
        dense += [(layer._value_dense, there), (layer._output_dense, here)]
        if hasattr(layer, "_gate_dense"):
            dense.append((layer._gate_dense, here))
        for one, where in dense:
            call.work(one._kernel, where)
        attended = getattr(layer, "_attention_axes", None) or [1]
        pairs = [*here, *(key.shape[a] for a in attended)]
        heads, parts, value_parts = inner
        _, count, size = layer._query_dense._kernel.shape
        value_size = layer._value_dense._kernel.shape[2]
        _multiply(call, pairs, (heads, count), (parts, size))
        _multiply(call, pairs, (heads, count), (value_parts, value_size))

    @staticmethod
    def _results(
        call: Call, query: Labels, outgoing: list[Arrays], heads: Arrays
    ) -> list[Labels]:
        shape = call.output_shapes[0]
        first = query.rank - 1
        factors = tuple(
            on_axis(a, first + n, len(shape))
            for n, arrays in enumerate(outgoing)
            for a in arrays
        )
        why = "" if factors else f"{call!r} is as wide as its query"
        results = [Labels(shape, factors, True, why)]
        for shape in call.output_shapes[1:]:  # the attention scores
            along = tuple(on_axis(a, 1, len(shape)) for a in heads)
            results.append(Labels(shape, along, False))
        return results

    def arrange(self, layer: Any, new: Any) -> None:
        """Scale the query, so that scores divided by the new key size are unchanged."""
        old_size = layer._query_dense._kernel.shape[2]
        new_size = new._query_dense._kernel.shape[2]
        if old_size == new_size:
            return
        dtype = layer.compute_dtype
        ratio = _default_scale(old_size, dtype) / _default_scale(
            new_size, dtype
        )
        for variable in (new._query_dense._kernel, new._query_dense.bias):
            if variable is not None:
                variable.assign(variable.value * ratio)


@register_rule(layers.MultiHeadAttention)
class MultiHeadAttentionRule(_HeadsRule):
    """Removes whole heads, and key and value channels (the same in all heads).

    Keys and values of equal width keep equal widths, because some backends
    require them.
    """

    def inner_axes(self, call: Call) -> tuple[Arrays, Arrays, Arrays, Arrays]:
        layer = call.layer
        heads = _slots(call, layer._query_dense._kernel, 1)
        parts = _slots(call, layer._query_dense._kernel, 2)
        if layer._key_dim == layer._value_dim:
            return heads, heads, parts, parts
        return heads, heads, parts, _slots(call, layer._value_dense._kernel, 2)

    def outputs(self, call: Call, reads: Arrays) -> list[Arrays]:
        kernel = call.layer._output_dense._kernel
        return [_slots(call, kernel, a) for a in range(2, len(kernel.shape))]

    def config(self, visit: Visit, kept: Kept) -> dict[str, Any]:
        layer = visit.operation
        config = layer.get_config()
        query, value = layer._query_dense._kernel, layer._value_dense._kernel
        config["num_heads"] = kept.size(query, 1)
        config["key_dim"] = kept.size(query, 2)
        config["value_dim"] = kept.size(value, 2)
        out = layer._output_dense._kernel
        sizes = tuple(kept.size(out, a) for a in range(2, len(out.shape)))
        if layer._output_shape or sizes[0] != kept.size(query, 0):
            config["output_shape"] = sizes
        return config


@register_rule(layers.GroupQueryAttention)
class GroupedQueryAttentionRule(_HeadsRule):
    """Removes whole key/value heads, and the i-th query heads of all of them.

    Channels within heads are removed from all heads. The output has the
    channels of the query.
    """

    def inner_axes(self, call: Call) -> tuple[Arrays, Arrays, Arrays, Arrays]:
        layer = call.layer
        shared = _slots(call, layer._key_dense._kernel, 1)
        heads = [np.repeat(a, layer.num_repeats) for a in shared]
        if layer.num_repeats > 1:
            heads.append(np.tile(self._own(call), layer.num_key_value_heads))
        parts = _slots(call, layer._query_dense._kernel, 2)
        return heads, shared, parts, parts

    @staticmethod
    def _own(call: Call) -> np.ndarray:
        """Return the slots of the query heads that share a key/value head."""
        layer = call.layer
        known = call.bound(layer._query_dense._kernel, 1)
        if known:
            return known[-1][: layer.num_repeats]
        return call.new_slots(layer.num_repeats)

    def outputs(self, call: Call, reads: Arrays) -> list[Arrays]:
        if len(reads) > 1:
            call.pin(reads, f"{call!r} must be as wide as its query")
            return [[]]
        return [reads]

    def config(self, visit: Visit, kept: Kept) -> dict[str, Any]:
        layer = visit.operation
        config = layer.get_config()
        config["num_query_heads"] = kept.size(layer._query_dense._kernel, 1)
        config["num_key_value_heads"] = kept.size(layer._key_dense._kernel, 1)
        config["head_dim"] = kept.size(layer._query_dense._kernel, 2)
        return config


class _ScoresRule(Rule):
    """Layers that compare query and key without projections."""

    def trace(self, call: Call) -> Labels | list[Labels]:
        query, value, *rest = [
            _features(call, x) for x in _given(call)["inputs"]
        ]
        key = rest[0] if rest else value
        batch = tuple(f"b{n}" for n in range(query.rank - 2))
        specs = [(*batch, "q", "d"), (*batch, "k", "d")]
        _, found = contract(
            call, [query, key], specs, (*batch, "q", "k"), masked=True
        )
        summed = found.get("d", [])
        if not self.ignores_removed(call, query, key, summed):
            call.need("summed", summed)
        labels = call.one_axis(value, value.rank - 1)
        sizes = [*query.shape[1:-1], key.shape[-2]]
        _multiply(call, sizes, (labels, value.shape[-1]))
        shape = call.output_shapes[0]
        factors = tuple(on_axis(a, len(shape) - 1, len(shape)) for a in labels)
        scores = [
            Labels(s, why="attention scores") for s in call.output_shapes[1:]
        ]
        return [Labels(shape, factors, value.zero, value.why), *scores]

    @abc.abstractmethod
    def ignores_removed(
        self, call: Call, query: Labels, key: Labels, summed: Arrays
    ) -> bool:
        """Return whether removed channels do not contribute to the scores."""

    def masked_call(
        self,
        layer: Any,
        masks: dict[str, Any],
        inputs: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        mask = masks.get("summed")
        if mask is not None:
            query, value, *rest = inputs
            key = rest[0] if rest else value
            query, key = (
                masked_axis(x, mask, len(x.shape) - 1) for x in (query, key)
            )
            inputs = [query, value, key]
        return layer(inputs, *args, **kwargs)


@register_rule(layers.Attention)
class AttentionRule(_ScoresRule):
    def ignores_removed(
        self, call: Call, query: Labels, key: Labels, summed: Arrays
    ) -> bool:
        if call.layer.score_mode == "dot":
            return query.zero or key.zero
        return query.zero and key.zero


@register_rule(layers.AdditiveAttention)
class AdditiveAttentionRule(_ScoresRule):
    def ignores_removed(
        self, call: Call, query: Labels, key: Labels, summed: Arrays
    ) -> bool:
        if call.layer.scale is None:
            return query.zero and key.zero
        call.bind(call.layer.scale, {0: Axis(summed, SCALE)})
        return True


@register_rule(ops.nn.DotProductAttention)
class DotProductAttentionRule(Rule):
    def trace(self, call: Call) -> Labels | Sequence[Labels]:
        given = _given(call)
        _pin_masks(call, given)
        tensors = [given[n] for n in ("query", "key", "value")]
        if not all(isinstance(x, Labels) for x in tensors):
            return call.pin_all(f"{call!r} has constant operands")
        why = f"{call!r} compares the positions along this axis"
        query, key, value = (
            untangle(call, call.settle(x, (0, 1), why)) for x in tensors
        )
        for name in ("mask", "bias"):
            shape: tuple[Any, ...] = getattr(given.get(name), "shape", ())
            if len(shape) > 3 and shape[1] != 1:
                for x in (query, key, value):
                    call.pin(x.along(2), f"{name} of {call!r} differs by head")
        if query.shape[2] != key.shape[2]:
            for x in (query, key, value):
                call.pin(x.along(2), f"{call!r} shares heads")
        specs = [("b", "q", "h", "d"), ("b", "k", "h", "d")]
        scores, _ = contract(call, [query, key], specs, ("b", "h", "q", "k"))
        specs = [("b", "h", "q", "k"), ("b", "k", "h", "v")]
        output = ("b", "q", "h", "v")
        out, _ = contract(
            call, [scores.replace(zero=False), value], specs, output
        )
        self._tie_width(call, query, value)
        return out.replace(shape=call.output_shape)

    @staticmethod
    def _tie_width(call: Call, query: Labels, value: Labels) -> None:
        """Keep keys and values equally wide, as some backends require."""
        pairs = [query.along(3), value.along(3)]
        if all(len(p) == 1 and p[0].size == p[0].shape[3] for p in pairs):
            call.union(pairs[0][0].ravel(), pairs[1][0].ravel())
        else:
            why = f"keys and values of {call!r} are equally wide"
            call.pin([f for p in pairs for f in p], why)

    def arguments(
        self,
        visit: Visit,
        kept: Kept,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        names = ("query", "key", "value", "bias", "mask", "scale")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        if given.get("scale") is None:
            # The default depends on the width; keep that of the old one.
            width = visit.inputs[0].shape[-1] or 1
            given["scale"] = _default_scale(width, given["query"].dtype)
        return (), given
