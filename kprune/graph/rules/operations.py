"""Elementwise operations of `keras.ops`."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras.src import ops

from kprune.graph.call import Call
from kprune.graph.call import covers
from kprune.graph.kept import Kept
from kprune.graph.labels import Labels
from kprune.graph.labels import lift
from kprune.graph.record import Visit
from kprune.graph.registry import Rule
from kprune.graph.registry import register_rule
from kprune.graph.rules.elementwise import product


def known(module: Any, names: str) -> list[type]:
    """Return the named operation classes that this version of Keras has."""
    return [getattr(module, n) for n in names.split() if hasattr(module, n)]


def is_array(value: Any) -> bool:
    """Return whether a call argument is a constant array, not a scalar."""
    return not isinstance(value, Labels) and np.ndim(value) > 0


class BinaryRule(Rule):
    """Combines operands element by element; constant arrays are cut with them."""

    def trace(self, call: Call) -> Labels:
        return call.join(self.operands(call), call.output_shape)

    @staticmethod
    def operands(call: Call) -> list[Labels]:
        """Return the labels of tensors and constants, in argument order."""
        found = []
        for key, value in named(call.args, call.kwargs):
            if isinstance(value, Labels):
                found.append(value)
            elif is_array(value):
                found.append(call.constant(key, np.shape(value)))
        return found

    def arguments(
        self,
        visit: Visit,
        kept: Kept,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        new_args, new_kwargs = list(args), dict(kwargs)
        for key, labels in visit.constants.items():
            where: Any = new_kwargs if isinstance(key, str) else new_args
            if kept.shape(labels) == labels.shape:
                continue
            value = np.asarray(where[key])
            for axis in range(value.ndim):
                positions = kept.positions(labels, axis)
                if positions is not None:
                    value = value.take(positions, axis=axis)
            where[key] = value
        return tuple(new_args), new_kwargs


def named(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[tuple[int | str, Any]]:
    """Return all arguments with their positions or keywords."""
    return [*enumerate(args), *kwargs.items()]


def argument(call: Call, position: int, name: str) -> Any:
    """Return one argument, given by position or by keyword."""
    if len(call.args) > position:
        return call.args[position]
    return call.kwargs.get(name)


def moved_by_constant(call: Call) -> bool:
    """Return whether a constant operand may make removed channels differ from 0."""
    values = [v for _, v in named(call.args, call.kwargs)]
    return any(np.any(v) for v in values if not isinstance(v, Labels))


@register_rule(*known(ops.numpy, "Add Subtract Maximum Minimum Fmax Fmin"))
class AddRule(BinaryRule):
    def trace(self, call: Call) -> Labels:
        out = super().trace(call)
        return out.replace(zero=out.zero and not moved_by_constant(call))


@register_rule(
    *known(ops.numpy, "NotEqual Greater Less LogicalAnd LogicalOr LogicalXor")
)
class FalseAtZeroRule(AddRule):
    """A comparison that is False, which is 0, if both operands are 0."""


@register_rule(
    *known(ops.numpy, "Equal GreaterEqual LessEqual Isclose"),
    *known(ops.numpy, "Logaddexp Logaddexp2"),
)
class CompareRule(BinaryRule):
    def trace(self, call: Call) -> Labels:
        return super().trace(call).replace(zero=False)


@register_rule(ops.numpy.Multiply)
class MultiplyOpRule(BinaryRule):
    product = True

    def trace(self, call: Call) -> Labels:
        return product(call, self.operands(call))


class QuotientRule(BinaryRule):
    """A quotient, which is 0 where the dividend is 0."""

    def trace(self, call: Call) -> Labels:
        out = call.join(self.operands(call), call.output_shape)
        dividend = argument(call, 0, "x1")
        zero = isinstance(dividend, Labels) and dividend.zero
        return out.replace(
            zero=zero and covers(lift(dividend, out.rank), out.factors)
        )


@register_rule(*known(ops.numpy, "DivideNoNan"))
class SafeDivideRule(QuotientRule):
    pass


@register_rule(*known(ops.numpy, "Divide TrueDivide FloorDivide Mod Fmod"))
class DivideRule(QuotientRule):
    def trace(self, call: Call) -> Labels:
        divisor = argument(call, 1, "x2")
        if isinstance(divisor, Labels):
            # A removed channel of the divisor may be 0. 0/0 is NaN, which no
            # later mask turns back into 0.
            call.pin(divisor.factors, f"{call!r} divides by these channels")
        return super().trace(call)


@register_rule(*known(ops.numpy, "Where"))
class WhereRule(BinaryRule):
    def trace(self, call: Call) -> Labels:
        return super().trace(call).replace(zero=False)


@register_rule(*known(ops.numpy, "Clip"))
class ClipRule(Rule):
    def trace(self, call: Call) -> Labels:
        low, high = call.operation.x_min, call.operation.x_max
        if np.ndim(low) or np.ndim(high):
            everywhere = range(call.input.rank)
            x = call.settle(
                call.input, everywhere, f"{call!r} has array bounds"
            )
            return x.replace(zero=False)
        stays = low <= 0 <= high
        return call.input.replace(zero=call.input.zero and bool(stays))


@register_rule(
    *known(ops.core, "Cast StopGradient ConvertToTensor SaturateCast"),
    *known(ops.numpy, "Copy"),
)
class CastRule(Rule):
    def trace(self, call: Call) -> Labels:
        return call.input.replace(shape=call.output_shape)


@register_rule(*known(ops.nn, "Softmax LogSoftmax Sparsemax"))
class SoftmaxOpRule(Rule):
    def trace(self, call: Call) -> Labels:
        axes, rank = call.operation.axis, call.input.rank
        if axes is None:
            axes = range(rank)
        axes = [axes] if isinstance(axes, int) else list(axes)
        x = call.settle(call.input, axes, f"softmax over this axis in {call!r}")
        return x.replace(zero=False)
