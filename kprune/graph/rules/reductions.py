"""Reductions in `keras.ops`: sum, mean, max, ..."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras.src import ops

from kprune.graph.call import Call
from kprune.graph.kept import Kept
from kprune.graph.labels import Labels
from kprune.graph.labels import Shape
from kprune.graph.labels import varying
from kprune.graph.record import Visit
from kprune.graph.registry import Rule
from kprune.graph.registry import register_rule
from kprune.graph.rules.operations import known


class ReduceRule(Rule):
    """A reduction that pins the channels it reduces over."""

    zero = True

    def trace(self, call: Call) -> Labels:
        x = call.input
        axes = reduced_axes(call.operation, x.rank)
        x = call.settle(x, axes, f"{call!r} reduces over these channels")
        return drop_axes(
            x.replace(zero=x.zero and self.zero), axes, call.output_shape
        )


@register_rule(
    *known(ops.numpy, "Amax Amin Var Prod All Argmax Argmin Median"),
    *known(ops.numpy, "Ptp Nanmax Nanmean Nanmin Nansum Nanvar"),
)
class PlainReduceRule(ReduceRule):
    pass


@register_rule(*known(ops.math, "Logsumexp"))
class LogsumexpRule(ReduceRule):
    zero = False


@register_rule(*known(ops.numpy, "Std"), *known(ops.linalg, "Norm"))
class RootRule(Rule):
    """Pins its input: the slope of a root is infinite at removed channels."""

    def trace(self, call: Call) -> list[Labels]:
        return call.pin_all(f"{call!r} has no finite slope at removed channels")


class MaskedReduceRule(Rule):
    """Reductions over channels that can be corrected for removed ones.

    The masked model reduces over all channels, where removed ones are 0. The
    compact model reduces over the kept ones and gets the same number with
    `mend`.
    """

    def trace(self, call: Call) -> Labels:
        x = call.input
        axes = reduced_axes(call.operation, x.rank)
        if not x.zero:
            why = f"{call!r} reduces over channels that are not 0 once masked"
            x = call.settle(x, axes, why)
        factors: list[Any] = []
        for factor in x.factors:
            others = set(varying(factor)) - set(axes)
            if others and others != set(varying(factor)):
                # It varies along a reduced axis and another: rows must match.
                one = x.replace(factors=(factor,))
                why = f"{call!r} reduces over ragged rows"
                call.settle(one, others, why)
                continue
            if others:
                factors.append(factor)
        return drop_axes(
            x.replace(factors=tuple(factors)), axes, call.output_shape
        )

    def shrink(self, visit: Visit, kept: Kept) -> Any:
        operation = super().shrink(visit, kept)
        x = visit.inputs[0]
        axes = reduced_axes(operation, x.rank)
        if all(kept.positions(x, a) is None for a in axes):
            return operation
        after = kept.shape(x)
        share = math.prod((after[a] or 1) / (x.shape[a] or 1) for a in axes)
        mend = self.mend(share)
        if mend is None:
            return operation
        # The model's output names are those of its last operations.
        last, operand = mend
        last.name, operation.name = (
            operation.name,
            kept.name(f"{operation.name}_kept"),
        )
        return lambda *args, **kwargs: last(operation(*args, **kwargs), operand)

    def mend(self, share: float) -> tuple[keras.Operation, float] | None:
        """Return what turns the reduction over kept channels into that over all.

        Args:
            share: Kept share of the reduced elements, from 0 to 1.

        Returns:
            A new operation of two operands, and its second operand; or None
            if the reductions are equal.
        """
        return None


@register_rule(*known(ops.numpy, "Sum Any CountNonzero"))
class SumRule(MaskedReduceRule):
    pass


@register_rule(ops.numpy.Mean)
class MeanRule(MaskedReduceRule):
    def mend(self, share: float) -> tuple[keras.Operation, float] | None:
        return ops.numpy.Multiply(), share


@register_rule(ops.numpy.Max)
class MaxRule(MaskedReduceRule):
    def mend(self, share: float) -> tuple[keras.Operation, float] | None:
        return ops.numpy.Maximum(), 0


@register_rule(ops.numpy.Min)
class MinRule(MaskedReduceRule):
    def mend(self, share: float) -> tuple[keras.Operation, float] | None:
        return ops.numpy.Minimum(), 0


def reduced_axes(operation: Any, rank: int) -> list[int]:
    """Return the axes an operation reduces, as non-negative numbers."""
    axis = operation.axis
    if axis is None:
        return list(range(rank))
    axis = [axis] if isinstance(axis, int) else list(axis)
    return [a % rank for a in axis]


def drop_axes(x: Labels, axes: list[int], shape: Shape) -> Labels:
    """Return the labels after reducing `axes`, along which none of them vary."""
    factors = x.factors
    if len(shape) != x.rank:
        factors = tuple(f.squeeze(axis=tuple(axes)) for f in factors)
    return x.replace(shape=tuple(shape), factors=factors)
