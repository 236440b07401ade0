"""`keras.ops` nodes: arithmetic, reductions and data movement."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from keras.src import ops

from kprune.graph import movement
from kprune.graph.call import Call
from kprune.graph.labels import Labels
from kprune.graph.labels import varying
from kprune.graph.registry import Rule
from kprune.graph.registry import configuration
from kprune.graph.registry import register_rule
from kprune.graph.rules.elementwise import product


def _classes(module: Any, *names: str) -> list[type]:
    # Older Keras versions lack some operations.
    return [getattr(module, n) for n in names if hasattr(module, n)]


class BinaryRule(Rule):
    """Operands meet element by element; array constants are cut with them."""

    def trace(self, call: Call) -> Labels:
        return call.join(self.operands(call), call.output_shape)

    @staticmethod
    def operands(call: Call) -> list[Labels]:
        """Labels of tensors and constants, in argument order."""
        found = []
        for index, value in enumerate(call.args):
            if isinstance(value, Labels):
                found.append(value)
            elif np.ndim(value) and np.size(value) > 1:
                found.append(call.constant(index, np.shape(value)))
        found += [v for v in call.kwargs.values() if isinstance(v, Labels)]
        return found

    def arguments(self, visit, kept, args, kwargs):
        args = list(args)
        for index, labels in visit.constants.items():
            value = np.asarray(args[index])
            for axis in range(value.ndim):
                positions = kept.positions(labels, axis)
                if positions is not None:
                    value = value.take(positions, axis=axis)
            args[index] = value
        return tuple(args), kwargs


@register_rule(
    *_classes(
        ops.numpy,
        *"Add Subtract Maximum Minimum Fmax Fmin Hypot".split(),
    )
)
class AddRule(BinaryRule):
    def trace(self, call: Call) -> Labels:
        out = super().trace(call)
        # A nonzero constant moves removed channels away from 0.
        plain = [a for a in call.args if not isinstance(a, Labels)]
        return out.replace(zero=out.zero and not any(np.any(a) for a in plain))


@register_rule(
    *_classes(
        ops.numpy,
        *"Equal NotEqual Greater GreaterEqual Less LessEqual Logaddexp".split(),
        *"LogicalAnd LogicalOr LogicalXor Logaddexp2".split(),
    )
)
class CompareRule(BinaryRule):
    def trace(self, call: Call) -> Labels:
        return super().trace(call).replace(zero=False)


@register_rule(ops.numpy.Multiply)
class MultiplyOpRule(BinaryRule):
    def trace(self, call: Call) -> Labels:
        return product(call, self.operands(call))


@register_rule(*_classes(ops.numpy, "Divide", "TrueDivide", "FloorDivide", "Mod"))
class DivideRule(BinaryRule):
    def trace(self, call: Call) -> Labels:
        operands = self.operands(call)
        divisor = call.args[1] if len(call.args) > 1 else None
        out = call.join(operands, call.output_shape)
        if isinstance(divisor, Labels) and divisor.factors:
            # A removed channel of the divisor is 0: 0/0 is not a number, and
            # no mask behind it can turn that back into 0.
            call.pin(divisor.factors, f"{call!r} divides by these channels")
        return out


@register_rule(
    *_classes(ops.numpy, "Mean", "Max", "Min", "Amax", "Amin", "Var", "Std", "Prod"),
    *_classes(ops.numpy, "All", "Any", "Argmax", "Argmin", "Median", "CountNonzero"),
    *_classes(ops.math, "Logsumexp"),
)
class ReduceRule(Rule):
    def trace(self, call: Call) -> Labels:
        x = call.input
        axes = reduced_axes(call, x.rank)
        x = call.settle(x, axes, f"{call!r} reduces over these channels")
        return drop_axes(x, axes, call.output_shape)


@register_rule(ops.numpy.Sum)
class SumRule(Rule):
    """Removed channels that are exactly 0 do not change a sum."""

    def trace(self, call: Call) -> Labels:
        x = call.input
        axes = reduced_axes(call, x.rank)
        if not x.zero:
            why = f"{call!r} sums channels that are not 0 once masked"
            x = call.settle(x, axes, why)
        mixed = [f for f in x.factors if set(varying(f)) & set(axes)]
        for factor in mixed:
            others = set(varying(factor)) - set(axes)
            if others:
                x = call.settle(x, others, f"{call!r} sums over other axes")
        kept = tuple(f for f in x.factors if not set(varying(f)) & set(axes))
        return drop_axes(x.replace(factors=kept), axes, call.output_shape)


def reduced_axes(call: Call, rank: int) -> list[int]:
    axis = call.operation.axis
    if axis is None:
        return list(range(rank))
    axis = [axis] if isinstance(axis, int) else list(axis)
    return [a % rank for a in axis]


def drop_axes(x: Labels, axes: list[int], shape) -> Labels:
    keepdims = len(shape) == x.rank
    factors = x.factors
    if not keepdims:
        factors = tuple(np.squeeze(f, axis=tuple(axes)) for f in factors)
    return x.replace(shape=tuple(shape), factors=factors, zero=x.zero)


@register_rule(ops.numpy.Reshape, ops.numpy.Ravel)
class ReshapeOpRule(Rule):
    def trace(self, call: Call) -> Labels:
        return movement.reshape(call, call.input, call.output_shape)

    def config(self, visit, kept):
        config = configuration(visit.operation)
        old, new = visit.outputs[0].shape, kept.shape(visit.outputs[0])
        if new != old:
            given = list(visit.operation.newshape)
            config["newshape"] = tuple(
                g if g == -1 else (n if n is not None else -1)
                for g, n in zip(given, new, strict=True)
            )
        return config


@register_rule(ops.numpy.Transpose)
class TransposeRule(Rule):
    def trace(self, call: Call) -> Labels:
        rank = call.input.rank
        axes = call.operation.axes or list(range(rank))[::-1]
        return movement.transpose(call.input, [a % rank for a in axes])


@register_rule(ops.numpy.Swapaxes, ops.numpy.Moveaxis)
class MoveAxisRule(Rule):
    def trace(self, call: Call) -> Labels:
        x, op = call.input, call.operation
        if isinstance(op, ops.numpy.Swapaxes):
            order = list(range(x.rank))
            a, b = op.axis1 % x.rank, op.axis2 % x.rank
            order[a], order[b] = order[b], order[a]
        else:
            probe = np.empty(tuple(range(2, x.rank + 2)))
            moved = np.moveaxis(probe, list(op.source), list(op.destination))
            order = [n - 2 for n in moved.shape]
        return movement.transpose(x, order)


@register_rule(ops.numpy.Concatenate)
class ConcatenateOpRule(Rule):
    def trace(self, call: Call) -> Labels:
        axis = call.operation.axis % len(call.output_shape)
        return movement.concatenate(call, call.inputs, axis, call.output_shape)


@register_rule(ops.numpy.Stack)
class StackRule(Rule):
    def trace(self, call: Call) -> Labels:
        rank = len(call.output_shape)
        axis = call.operation.axis % rank
        wide = [movement.expand(x, axis) for x in call.inputs]
        return call.join(wide, call.output_shape)


@register_rule(ops.numpy.ExpandDims)
class ExpandDimsRule(Rule):
    def trace(self, call: Call) -> Labels:
        axes = call.operation.axis
        axes = [axes] if isinstance(axes, int) else list(axes)
        rank = len(call.output_shape)
        x = call.input
        for axis in sorted(a % rank for a in axes):
            x = movement.expand(x, axis)
        return x


@register_rule(ops.numpy.Squeeze)
class SqueezeRule(Rule):
    def trace(self, call: Call) -> Labels:
        x, axes = call.input, call.operation.axis
        if axes is None:
            axes = [a for a, n in enumerate(x.shape) if n == 1]
        axes = [axes] if isinstance(axes, int) else list(axes)
        axes = [a % x.rank for a in axes]
        factors = tuple(np.squeeze(f, axis=tuple(axes)) for f in x.factors)
        return x.replace(shape=call.output_shape, factors=factors)


@register_rule(ops.numpy.Pad)
class PadRule(Rule):
    def trace(self, call: Call) -> Labels:
        x, op = call.input, call.operation
        widths = _widths(op.pad_width, x.rank)
        value = call.args[1] if len(call.args) > 1 else call.kwargs.get(
            "constant_values"
        )
        if op.mode != "constant":
            padded = [a for a, w in enumerate(widths) if any(w)]
            x = call.settle(x, padded, f"{call!r} pads with copies of channels")
            return x.replace(shape=call.output_shape)
        return movement.pad(call, x, widths, value, call.output_shape)

    def config(self, visit, kept):
        config = configuration(visit.operation)
        x, out = visit.inputs[0], visit.outputs[0]
        widths = [list(w) for w in _widths(visit.operation.pad_width, x.rank)]
        for axis, (low, _) in enumerate(list(widths)):
            index = kept.positions(out, axis)
            if index is not None:
                body = x.shape[axis]
                before = int((index < low).sum())
                after = int((index >= low + body).sum())
                widths[axis] = [before, after]
        config["pad_width"] = tuple((int(a), int(b)) for a, b in widths)
        return config


def _widths(pad_width, rank: int) -> list[tuple[int, int]]:
    widths = [tuple(int(v) for v in np.ravel(w)) for w in pad_width]
    widths = [w * 2 if len(w) == 1 else w for w in widths]
    return (widths * rank if len(widths) == 1 else widths)  # type: ignore[return-value]


@register_rule(ops.numpy.GetItem)
class GetItemRule(Rule):
    def trace(self, call: Call) -> Labels | list[Labels]:
        x = call.input
        key = movement.normalise_key(_key(call.args, call.kwargs), x.rank)
        if key is None:
            return call.pin_all(f"{call!r} uses an index that is not basic")
        return movement.take_key(call, x, key, call.output_shape)

    def arguments(self, visit, kept, args, kwargs):
        x = visit.inputs[0]
        key = movement.normalise_key(_key(visit.args, visit.kwargs), x.rank)
        if key is None:
            return args, kwargs
        new, irregular = movement.shrink_key(key, x, kept)
        if irregular:
            # GetItem takes regular slices only; ops.take picks the rest.
            tensor = args[0] if args else kwargs["x"]
            for axis, index in irregular:
                tensor = ops.take(tensor, index.tolist(), axis=axis)
            return (tensor, new), {}
        return ((args[0] if args else kwargs["x"]), new), {}


def _key(args: tuple, kwargs: dict) -> Any:
    return args[1] if len(args) > 1 else kwargs["key"]


@register_rule(ops.numpy.Split)
class SplitRule(Rule):
    def trace(self, call: Call) -> list[Labels]:
        x = call.input
        axis = call.operation.axis % x.rank
        outputs = []
        for (start, stop), shape in zip(
            _pieces(call.operation, x), call.output_shapes, strict=True
        ):
            key = [slice(None)] * x.rank
            key[axis] = slice(start, stop)
            outputs.append(movement.take_key(call, x, tuple(key), shape))
        return outputs

    def config(self, visit, kept):
        config = configuration(visit.operation)
        x = visit.inputs[0]
        index = kept.positions(x, visit.operation.axis)
        if index is not None:
            ends = [stop for _, stop in _pieces(visit.operation, x)][:-1]
            cuts = [int(np.searchsorted(index, end)) for end in ends]
            config["indices_or_sections"] = cuts
        return config


def _pieces(op: Any, x: Labels) -> list[tuple[int, int]]:
    length = x.shape[op.axis % x.rank] or 0
    if isinstance(op.indices_or_sections, int):
        step = length // op.indices_or_sections
        cuts = [step * k for k in range(1, op.indices_or_sections)]
    else:
        cuts = [int(c) for c in op.indices_or_sections]
    return list(zip([0, *cuts], [*cuts, length], strict=True))


@register_rule(ops.numpy.Repeat)
class RepeatRule(Rule):
    def trace(self, call: Call) -> Labels | list[Labels]:
        x, op = call.input, call.operation
        if op.axis is None or not isinstance(op.repeats, int):
            return call.pin_all(f"{call!r} repeats irregularly")
        axis = op.axis % x.rank
        factors = tuple(
            np.repeat(f, op.repeats, axis=axis) if f.shape[axis] > 1 else f
            for f in x.factors
        )
        return x.replace(shape=call.output_shape, factors=factors)


@register_rule(ops.numpy.Tile)
class TileRule(Rule):
    def trace(self, call: Call) -> Labels | list[Labels]:
        x = call.input
        repeats = call.operation.repeats
        repeats = [repeats] if isinstance(repeats, int) else list(repeats)
        if len(repeats) > x.rank:
            return call.pin_all(f"{call!r} adds axes")
        repeats = [1] * (x.rank - len(repeats)) + [int(r) for r in repeats]
        factors = tuple(
            np.tile(f, [r if n > 1 else 1 for r, n in zip(repeats, f.shape, strict=True)])
            for f in x.factors
        )
        return x.replace(shape=call.output_shape, factors=factors)


@register_rule(ops.numpy.Flip, ops.numpy.Roll)
class FlipRule(Rule):
    def trace(self, call: Call) -> Labels | list[Labels]:
        x, op = call.input, call.operation
        if op.axis is None:
            return call.pin_all(f"{call!r} moves across all axes")
        axes = [op.axis] if isinstance(op.axis, int) else list(op.axis)
        if hasattr(op, "shift"):
            # A rolled axis with gaps would need another shift per channel.
            return call.settle(x, axes, f"{call!r} rolls these channels")
        factors = []
        for factor in x.factors:
            flip = [a % x.rank for a in axes if factor.shape[a % x.rank] > 1]
            factors.append(np.flip(factor, flip) if flip else factor)
        return x.replace(factors=tuple(factors))


@register_rule(ops.numpy.BroadcastTo)
class BroadcastToRule(Rule):
    def trace(self, call: Call) -> Labels:
        return movement.broadcast(call.input, call.output_shape)

    def config(self, visit, kept):
        config = configuration(visit.operation)
        new = kept.shape(visit.outputs[0])
        if new != visit.outputs[0].shape:
            config["shape"] = new
        return config


@register_rule(ops.numpy.Clip)
class ClipRule(Rule):
    def trace(self, call: Call) -> Labels:
        low, high = call.operation.x_min, call.operation.x_max
        if np.ndim(low) or np.ndim(high):
            x = call.settle(
                call.input, range(call.input.rank), f"{call!r} has array bounds"
            )
            return x
        stays = math.isfinite(low) and low <= 0 <= high
        return call.input.replace(zero=call.input.zero and bool(stays))


@register_rule(ops.numpy.Where)
class WhereRule(BinaryRule):
    def trace(self, call: Call) -> Labels:
        return super().trace(call).replace(zero=False)


@register_rule(*_classes(ops.core, "Cast", "StopGradient", "ConvertToTensor"))
class CastRule(Rule):
    def trace(self, call: Call) -> Labels:
        return call.input.replace(shape=call.output_shape)
