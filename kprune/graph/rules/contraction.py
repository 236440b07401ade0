"""Sums of products over named axes: einsum, matmul, tensordot, Dot."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import layers
from keras.src import backend
from keras.src import ops

from kprune.graph.call import Call
from kprune.graph.labels import Labels
from kprune.graph.labels import on_axis
from kprune.graph.labels import varying
from kprune.graph.registry import Rule
from kprune.graph.registry import register_rule
from kprune.graph.rules.operations import BinaryRule

# The axis names of one operand, with ellipses expanded.
Spec = tuple[str, ...]


def parse(subscripts: str, ranks: Sequence[int]) -> tuple[list[Spec], Spec]:
    """Return the axis names of an einsum's operands and of its result.

    Axes of an ellipsis are named by their distance from its end, because
    broadcasting aligns them there.
    """
    left, arrow, right = subscripts.replace(" ", "").partition("->")
    specs = [
        _expand(text, rank - len(text.replace("...", "")))
        for text, rank in zip(left.split(","), ranks, strict=True)
    ]
    hidden = max((_hidden(s) for s in specs), key=len, default=())
    if arrow:
        return specs, _expand(right, len(hidden))
    letters = [t for s in specs for t in s if t not in hidden]
    once = sorted(t for t in set(letters) if letters.count(t) == 1)
    return specs, (*hidden, *once)


def _expand(text: str, count: int) -> Spec:
    head, dots, tail = text.partition("...")
    middle = [f"...{n}" for n in range(count, 0, -1)] if dots else []
    return (*head, *middle, *tail)


def _hidden(spec: Spec) -> Spec:
    return tuple(t for t in spec if t.startswith("..."))


def untangle(call: Call, x: Labels, prefer: Sequence[int] = ()) -> Labels:
    """Return labels whose factors each vary along one axis only.

    Channels that a reshape spread over two axes (heads and their channels)
    keep the first of these axes in `prefer`, or else the last.
    """
    factors: list[np.ndarray] = []
    for factor in x.factors:
        axes = varying(factor)
        if len(axes) > 1:
            keep = next((a for a in prefer if a in axes), axes[-1])
            others = [a for a in axes if a != keep]
            one = x.replace(factors=(factor,))
            factors += call.settle(one, others, "").factors
        else:
            factors.append(factor)
    return x.replace(factors=tuple(factors))


def arrays(x: Labels, axis: int) -> list[np.ndarray]:
    """Return the 1-D label arrays along `axis` of untangled labels."""
    return [f.ravel() for f in x.along(axis)]


def contract(
    call: Call,
    operands: Sequence[Labels],
    specs: Sequence[Spec],
    output: Spec,
    masked: bool = False,
) -> tuple[Labels, dict[str, list[np.ndarray]]]:
    """Return the labels of a sum of products without parameters.

    Removed positions of a summed axis do no harm if one of the operands is
    exactly 0 there.

    Args:
        call: The traced call.
        operands: Labels of the operands.
        specs: Names of their axes; axes of the same name are multiplied.
        output: Names of the axes of the result; all others are summed over.
        masked: Whether the layer itself masks the axes it sums over.

    Returns:
        Labels of the result, in the shape the names imply, and the label
        arrays by axis name.
    """
    names = list(dict.fromkeys(t for spec in specs for t in spec))
    summed = [t for t in names if t not in output]
    # Which axis of a factor over several keeps its labels: first one that is
    # summed over, then one of a single operand, last one that all operands share.
    alone = [t for t in names if sum(t in s for s in specs) == 1]
    ranked = [*summed, *alone, *names[::-1]]
    operands = [
        untangle(call, x, [spec.index(t) for t in ranked if t in spec])
        for x, spec in zip(operands, specs, strict=True)
    ]
    found: dict[str, list[np.ndarray]] = {}
    sizes: dict[str, int | None] = {}
    zero = True
    for name in names:
        users = [
            (x, spec.index(name))
            for x, spec in zip(operands, specs, strict=True)
            if name in spec
        ]
        full = [(x, a) for x, a in users if x.shape[a] != 1]
        sizes[name] = full[0][0].shape[full[0][1]] if full else 1
        labels = _meet(call, full)
        if not labels:
            continue
        found[name] = labels
        exact = any(x.zero for x, _ in full)
        if name in output:
            zero = zero and exact
        elif not exact and not masked:
            call.pin(
                labels, f"{call!r} sums channels that are not 0 once masked"
            )
    shape = tuple(sizes[t] for t in output)
    factors = [
        on_axis(a, axis, len(shape))
        for axis, name in enumerate(output)
        for a in found.get(name, [])
    ]
    _count(call, specs, sizes, found, output)
    reasons = [x.why for x in operands if x.why]
    why = reasons[0] if reasons else f"{call!r} sums over the channels"
    return Labels(shape, tuple(factors), zero, why), found


def _meet(call: Call, users: Sequence[tuple[Labels, int]]) -> list[np.ndarray]:
    """Unite the labels of axes that are multiplied with each other."""
    lists = [arrays(x, axis) for x, axis in users]
    if len({len(v) for v in lists}) > 1:
        bare = [x for (x, _), v in zip(users, lists, strict=True) if not v]
        why = next((x.why for x in bare if x.why), "")
        why = (
            why or f"meets an axis in {call!r} whose channels cannot be removed"
        )
        call.pin([a for v in lists for a in v], why)
        return []
    for other in lists[1:]:
        for a, b in zip(lists[0], other, strict=True):
            call.union(a, b)
    return lists[0] if lists else []


def _count(
    call: Call,
    specs: Sequence[Spec],
    sizes: dict[str, int | None],
    found: dict[str, list[np.ndarray]],
    output: Spec,
) -> None:
    """Count one multiplication per combination of all axes except the batch."""
    batch = output[0] if output and output[0] == specs[0][0] else None
    free = [n for t, n in sizes.items() if t != batch and not found.get(t)]
    call.work(None, free, [a for t, a in found.items() if t != batch])


def repeats(specs: Sequence[Spec]) -> bool:
    """Return whether an operand has two axes of the same name (a diagonal)."""
    return any(len(set(s)) < len(s) for s in specs)


class ContractionRule(BinaryRule):
    """An operation that can be written as an einsum."""

    def trace(self, call: Call) -> Labels:
        operands = self.operands(call)
        found = self.names(call, [x.rank for x in operands])
        if found is None or repeats(found[0]):
            return call.pin_all(f"{call!r} is not a plain sum of products")[0]
        labels, _ = contract(call, operands, *found)
        return labels.replace(shape=call.output_shape)

    @abc.abstractmethod
    def names(
        self, call: Call, ranks: list[int]
    ) -> tuple[list[Spec], Spec] | None:
        """Return the axis names of operands and result, or None if unsupported."""


@register_rule(ops.numpy.Einsum)
class EinsumRule(ContractionRule):
    def names(
        self, call: Call, ranks: list[int]
    ) -> tuple[list[Spec], Spec] | None:
        return parse(call.operation.subscripts, ranks)


@register_rule(ops.numpy.Matmul)
class MatmulRule(ContractionRule):
    def names(
        self, call: Call, ranks: list[int]
    ) -> tuple[list[Spec], Spec] | None:
        if len(ranks) != 2:
            return None
        left = "...k" if ranks[0] == 1 else "...mk"
        right = "...k" if ranks[1] == 1 else "...kn"
        out = "..." + "m" * (ranks[0] > 1) + "n" * (ranks[1] > 1)
        return parse(f"{left},{right}->{out}", ranks)


@register_rule(ops.numpy.Dot)
class DotOpRule(ContractionRule):
    def names(
        self, call: Call, ranks: list[int]
    ) -> tuple[list[Spec], Spec] | None:
        if len(ranks) != 2:
            return None
        return _paired(ranks, [ranks[0] - 1], [max(ranks[1] - 2, 0)])


@register_rule(ops.numpy.Tensordot)
class TensordotRule(ContractionRule):
    def names(
        self, call: Call, ranks: list[int]
    ) -> tuple[list[Spec], Spec] | None:
        axes = call.operation.axes
        if len(ranks) != 2:
            return None
        if isinstance(axes, int):
            left = list(range(ranks[0] - axes, ranks[0]))
            return _paired(ranks, left, list(range(axes)))
        pairs = [[a] if isinstance(a, int) else list(a) for a in axes]
        return _paired(ranks, *pairs)


def _paired(
    ranks: list[int], left: list[int], right: list[int]
) -> tuple[list[Spec], Spec]:
    """Return axis names for a contraction of axes `left[i]` with axes `right[i]`."""
    first = [f"a{n}" for n in range(ranks[0])]
    second = [f"b{n}" for n in range(ranks[1])]
    for a, b in zip(left, right, strict=True):
        second[b] = first[a]
    out = [t for t in first if t not in second] + [
        t for t in second if t not in first
    ]
    return [tuple(first), tuple(second)], tuple(out)


@register_rule(layers.Dot)
class DotRule(Rule):
    """Masks the summed axis unless removed channels contribute 0 anyway."""

    def trace(self, call: Call) -> Labels:
        layer, (x, y) = call.layer, call.tensors
        a, b = self._axes(layer, x.rank, y.rank)
        (first, second), _ = _paired([x.rank, y.rank], [0, a], [0, b])
        output = tuple(
            t for t in dict.fromkeys((*first, *second)) if t != first[a]
        )
        zeros = [x.zero, y.zero]
        safe = all(zeros) if layer.normalize else any(zeros)
        out, found = contract(
            call, [x, y], [first, second], output, masked=True
        )
        if not safe:
            call.need("summed", found.get(first[a], []))
        return out.replace(
            shape=call.output_shape,
            factors=tuple(
                f.reshape(f.shape + (1,) * (len(call.output_shape) - f.ndim))
                for f in out.factors
            ),
            zero=out.zero and not layer.normalize,
        )

    @staticmethod
    def _axes(layer: Any, *ranks: int) -> list[int]:
        axes = layer.axes
        axes = [axes, axes] if isinstance(axes, int) else list(axes)
        return [a % rank for a, rank in zip(axes, ranks, strict=True)]

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
            axes = self._axes(layer, *(len(x.shape) for x in inputs))
            inputs = [
                masked_axis(x, mask, a)
                for x, a in zip(inputs, axes, strict=True)
            ]
        return layer(inputs, *args, **kwargs)


def masked_axis(x: Any, mask: Any, axis: int) -> Any:
    """Multiply a tensor with a mask along one axis; its Keras mask is kept."""
    shape = [1] * len(x.shape)
    shape[axis] = -1
    out = x * ops.reshape(ops.cast(mask, x.dtype), shape)
    kept = backend.get_keras_mask(x)
    if kept is not None:
        backend.set_keras_mask(out, kept)
    return out
