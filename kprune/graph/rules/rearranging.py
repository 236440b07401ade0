"""`keras.ops` that only move data; the same movement is applied to the labels."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras.src import ops

from kprune.graph import movement
from kprune.graph.call import Call
from kprune.graph.kept import Kept
from kprune.graph.labels import Labels
from kprune.graph.labels import lift
from kprune.graph.record import Visit
from kprune.graph.registry import Rule
from kprune.graph.registry import configuration
from kprune.graph.registry import register_rule
from kprune.graph.rules.operations import known


@register_rule(ops.numpy.Reshape)
class ReshapeOpRule(Rule):
    def trace(self, call: Call) -> Labels:
        return movement.reshape(call, call.input, call.output_shape)

    def copied(self, operation: Any) -> dict[str, Any]:
        # The constructor argument may hold a batch size that the call of a
        # composite layer computed; the attribute is correct for any batch.
        shape = operation.newshape
        return {**configuration(operation), "newshape": shape}

    def config(self, visit: Visit, kept: Kept) -> dict[str, Any]:
        config = self.copied(visit.operation)
        old, new = visit.outputs[0].shape, kept.shape(visit.outputs[0])
        if new != old:
            given = visit.operation.newshape
            given = [given] if isinstance(given, int) else list(given)
            config["newshape"] = tuple(
                g if g == -1 else (n if n is not None else -1)
                for g, n in zip(given, new, strict=True)
            )
        return config


@register_rule(ops.numpy.Ravel)
class RavelRule(Rule):
    def trace(self, call: Call) -> Labels:
        return movement.reshape(call, call.input, call.output_shape)


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
        order = list(range(x.rank))
        if isinstance(op, ops.numpy.Swapaxes):
            a, b = op.axis1 % x.rank, op.axis2 % x.rank
            order[a], order[b] = order[b], order[a]
        else:
            source = [a % x.rank for a in op.source]
            order = [a for a in order if a not in source]
            target = [a % x.rank for a in op.destination]
            for to, axis in sorted(zip(target, source, strict=True)):
                order.insert(to, axis)
        return movement.transpose(x, order)


@register_rule(ops.numpy.Concatenate)
class ConcatenateOpRule(Rule):
    def trace(self, call: Call) -> Labels:
        axis = call.operation.axis % len(call.output_shape)
        return movement.concatenate(call, call.tensors, axis, call.output_shape)


@register_rule(ops.numpy.Stack)
class StackRule(Rule):
    def trace(self, call: Call) -> Labels:
        rank = len(call.output_shape)
        axis = call.operation.axis % rank
        wide = [movement.expand(x, axis) for x in call.tensors]
        return call.join(wide, call.output_shape)


@register_rule(ops.core.Unstack)
class UnstackRule(Rule):
    def trace(self, call: Call) -> list[Labels]:
        x = call.input
        axis = call.operation.axis % x.rank
        x = call.settle(x, [axis], f"{call!r} picks single channels")
        factors = tuple(f.squeeze(axis=axis) for f in x.factors)
        return [x.replace(shape=s, factors=factors) for s in call.output_shapes]


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
    """Names its axes in the rebuilt model, where further ones may have size 1."""

    def trace(self, call: Call) -> Labels:
        x = call.input
        axes = self._axes(call.operation, x)
        factors = tuple(np.squeeze(f, axis=tuple(axes)) for f in x.factors)
        return x.replace(shape=call.output_shape, factors=factors)

    @staticmethod
    def _axes(operation: Any, x: Labels) -> list[int]:
        axes = operation.axis
        if axes is None:
            return [a for a, n in enumerate(x.shape) if n == 1]
        axes = [axes] if isinstance(axes, int) else list(axes)
        return [a % x.rank for a in axes]

    def shrink(self, visit: Visit, kept: Kept) -> Any:
        axes = self._axes(visit.operation, visit.inputs[0])
        if not axes:
            # Not an Identity layer, which casts to the dtype of its policy.
            return ops.numpy.Copy(name=visit.operation.name)
        return super().shrink(visit, kept)

    def config(self, visit: Visit, kept: Kept) -> dict[str, Any]:
        axes = self._axes(visit.operation, visit.inputs[0])
        return {**configuration(visit.operation), "axis": tuple(axes)}


@register_rule(ops.numpy.Pad)
class PadRule(Rule):
    def trace(self, call: Call) -> Labels:
        x, op = call.input, call.operation
        widths = _widths(op.pad_width, x.rank)
        value = (
            call.args[1]
            if len(call.args) > 1
            else call.kwargs.get("constant_values")
        )
        if op.mode != "constant":
            padded = [a for a, w in enumerate(widths) if any(w)]
            x = call.settle(x, padded, f"{call!r} pads with copies of channels")
            return x.replace(shape=call.output_shape)
        return movement.pad(call, x, widths, value, call.output_shape)

    def config(self, visit: Visit, kept: Kept) -> dict[str, Any]:
        config = configuration(visit.operation)
        x, out = visit.inputs[0], visit.outputs[0]
        widths = [list(w) for w in _widths(visit.operation.pad_width, x.rank)]
        for axis, (low, _) in enumerate(list(widths)):
            index = kept.positions(out, axis)
            if index is not None:
                body = x.shape[axis] or 0
                before = int((index < low).sum())
                after = int((index >= low + body).sum())
                widths[axis] = [before, after]
        config["pad_width"] = tuple((int(a), int(b)) for a, b in widths)
        return config


def _widths(pad_width: Any, rank: int) -> list[tuple[int, int]]:
    widths = [tuple(int(v) for v in np.ravel(w)) for w in pad_width]
    widths = [w * 2 if len(w) == 1 else w for w in widths]
    return widths * rank if len(widths) == 1 else widths  # type: ignore[return-value]


@register_rule(ops.numpy.Repeat)
class RepeatRule(Rule):
    def trace(self, call: Call) -> Labels | list[Labels]:
        x, op = call.input, call.operation
        if op.axis is None:
            return call.pin_all(f"{call!r} repeats across all axes")
        axis = op.axis % x.rank
        if np.size(op.repeats) > 1:
            # With other channels, the list of repeats would have to change.
            x = call.settle(
                x, [axis], f"{call!r} repeats these channels unevenly"
            )
            return x.replace(shape=call.output_shape)
        count = int(np.ravel(op.repeats)[0])
        factors = tuple(
            np.repeat(f, count, axis=axis) if f.shape[axis] > 1 else f
            for f in x.factors
        )
        return x.replace(shape=call.output_shape, factors=factors)


@register_rule(ops.numpy.Tile)
class TileRule(Rule):
    def trace(self, call: Call) -> Labels:
        repeats = [int(r) for r in np.ravel(call.operation.repeats)]
        x = lift(call.input, len(repeats))
        repeats = [1] * (x.rank - len(repeats)) + repeats
        factors = tuple(
            np.tile(
                f,
                [
                    r if n > 1 else 1
                    for r, n in zip(repeats, f.shape, strict=True)
                ],
            )
            for f in x.factors
        )
        return x.replace(shape=call.output_shape, factors=factors)


@register_rule(ops.numpy.Flip, ops.numpy.Roll)
class FlipRule(Rule):
    def trace(self, call: Call) -> Labels | list[Labels]:
        x, op = call.input, call.operation
        if op.axis is None:
            return call.pin_all(f"{call!r} moves data across all axes")
        axes = [op.axis] if isinstance(op.axis, int) else list(op.axis)
        if hasattr(op, "shift"):
            # Without some channels, each channel would need a shift of its own.
            return call.settle(x, axes, f"{call!r} rolls these channels")
        factors = []
        for factor in x.factors:
            flip = [a % x.rank for a in axes if factor.shape[a % x.rank] > 1]
            factors.append(np.flip(factor, tuple(flip)) if flip else factor)
        return x.replace(factors=tuple(factors))


@register_rule(ops.numpy.BroadcastTo)
class BroadcastToRule(Rule):
    def trace(self, call: Call) -> Labels:
        return movement.broadcast(call.input, call.output_shape)

    def config(self, visit: Visit, kept: Kept) -> dict[str, Any]:
        config = configuration(visit.operation)
        new = kept.shape(visit.outputs[0])
        if new != visit.outputs[0].shape:
            config["shape"] = new
        return config


class DepthRule(Rule):
    """Turns blocks of channels into blocks of pixels, or vice versa."""

    def trace(self, call: Call) -> Labels:
        x, op = call.input, call.operation
        first = op.data_format == "channels_first"
        axis = 1 if first else x.rank - 1
        others = [a for a in range(x.rank) if a != axis]
        x = call.settle(x, others, f"{call!r} moves this axis into blocks")
        lengths = [1] * x.rank
        lengths[axis] = -1
        factors = []
        for array in call.one_axis(x, axis):
            moved = self.move(call, array, op.block_size**2)
            if moved.size > 1:
                factors.append(moved.reshape(lengths))
            else:
                call.pin(array, f"{call!r} leaves a single channel")
        return x.replace(shape=call.output_shape, factors=tuple(factors))

    def move(self, call: Call, array: np.ndarray, block: int) -> np.ndarray:
        """Return the labels of the output channels.

        Args:
            call: The traced call.
            array: 1-D labels of the input channels.
            block: Pixels per block.
        """
        raise TypeError(f"{type(self).__name__} must define move().")


@register_rule(*known(ops.nn, "DepthToSpace"))
class DepthToSpaceRule(DepthRule):
    def move(self, call: Call, array: np.ndarray, block: int) -> np.ndarray:
        # Channels run fastest: each pixel of a block has a full set of them.
        rows = array.reshape(block, -1)
        call.union(rows, rows[:1])
        return rows[0]


@register_rule(*known(ops.nn, "SpaceToDepth"))
class SpaceToDepthRule(DepthRule):
    def move(self, call: Call, array: np.ndarray, block: int) -> np.ndarray:
        return np.tile(array, block)


@register_rule(*known(ops.nn, "Glu"))
class GluRule(Rule):
    """Gates one half of an axis by the other."""

    def trace(self, call: Call) -> Labels:
        x = call.input
        axis = call.operation.axis % x.rank
        half = (x.shape[axis] or 0) // 2
        parts = []
        for start in (0, half):
            key = [slice(None)] * x.rank
            key[axis] = slice(start, start + half)
            parts.append(
                movement.take_key(call, x, tuple(key), call.output_shape)
            )
        out = call.join(parts, call.output_shape)
        return out.replace(zero=x.zero)


def image_axis(operation: Any, rank: int) -> int:
    """Return the axis of the channels in a batch of images."""
    kind = operation.data_format or keras.config.image_data_format()
    return 1 if kind == "channels_first" else rank - 1


@register_rule(
    *known(ops.nn, "MaxPool AveragePool"),
    *known(ops.image, "Resize CropImages PadImages"),
)
class ImageRule(Rule):
    """Works along spatial axes, channel by channel."""

    def trace(self, call: Call) -> Labels | list[Labels]:
        x = call.input
        if x.rank < 4 and hasattr(ops.image, type(call.operation).__name__):
            return call.pin_all(f"{call!r} works on a single image")
        axis = image_axis(call.operation, x.rank)
        others = [a for a in range(x.rank) if a != axis]
        x = call.settle(x, others, f"{call!r} works along this axis")
        fill = getattr(call.operation, "fill_value", 0)
        return x.replace(shape=call.output_shape, zero=x.zero and not fill)
