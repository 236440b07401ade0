"""`keras.ops` that pick parts of a tensor: slices, splits, constant indices."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras.src import ops

from kprune.graph import movement
from kprune.graph.call import Call
from kprune.graph.kept import Kept
from kprune.graph.labels import Labels
from kprune.graph.labels import Shape
from kprune.graph.record import Visit
from kprune.graph.registry import Rule
from kprune.graph.registry import configuration
from kprune.graph.registry import register_rule
from kprune.graph.rules.operations import argument
from kprune.graph.rules.operations import known


@register_rule(ops.numpy.GetItem)
class GetItemRule(Rule):
    def trace(self, call: Call) -> Labels | list[Labels]:
        x = call.input
        key = movement.normalise_key(argument(call, 1, "key"), x.rank)
        if key is None:
            return call.pin_all(f"{call!r} uses advanced indexing")
        return movement.take_key(call, x, key, call.output_shape)

    def arguments(
        self,
        visit: Visit,
        kept: Kept,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        x = visit.inputs[0]
        given = visit.args[1] if len(visit.args) > 1 else visit.kwargs["key"]
        key = movement.normalise_key(given, x.rank)
        if key is None:
            return args, kwargs
        new, irregular = movement.shrink_key(key, x, kept)
        tensor = args[0] if args else kwargs["x"]
        # GetItem supports regular slices only; ops.take selects the rest.
        for axis, index in irregular:
            name = kept.name(f"{visit.operation.name}_take{axis}")
            take = ops.numpy.Take(axis=axis, name=name)
            tensor = take(tensor, index.tolist())
        return (tensor, new), {}


@register_rule(ops.numpy.Take)
class TakeRule(Rule):
    """Gathers constant indices along an axis."""

    def trace(self, call: Call) -> Labels | list[Labels]:
        x, indices = argument(call, 0, "x"), argument(call, 1, "indices")
        axis = call.operation.axis
        if not isinstance(x, Labels) or axis is None:
            return call.pin_all(f"{call!r} gathers across all axes")
        axis %= x.rank
        if isinstance(indices, Labels):
            for factor in indices.factors:
                call.pin(factor, f"{call!r} uses these values as indices")
            return self._stack(call, x, axis, indices.rank)
        indices = np.asarray(indices)
        if indices.ndim != 1 or indices.size < 2:
            return self._stack(call, x, axis, indices.ndim)
        factors = tuple(
            f.take(indices, axis=axis) if f.shape[axis] > 1 else f
            for f in x.factors
        )
        if len(x.along(axis)) > 1:
            call.pin(
                x.along(axis),
                f"{call!r} gathers from an axis of two channel axes",
            )
        return x.replace(shape=call.output_shape, factors=factors)

    @staticmethod
    def _stack(call: Call, x: Labels, axis: int, rank: int) -> Labels:
        """Replace the gathered axis by the axes of the indices."""
        x = call.settle(x, [axis], f"{call!r} picks single channels")
        factors = tuple(
            f.reshape(f.shape[:axis] + (1,) * rank + f.shape[axis + 1 :])
            for f in x.factors
        )
        return x.replace(shape=call.output_shape, factors=factors)

    def arguments(
        self,
        visit: Visit,
        kept: Kept,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        x = visit.args[0] if visit.args else visit.kwargs["x"]
        axis = visit.operation.axis
        if not isinstance(x, Labels) or axis is None:
            return args, kwargs
        index = kept.positions(x, axis)
        if index is None:
            return args, kwargs
        given = args[1] if len(args) > 1 else kwargs["indices"]
        wanted = np.asarray(given) % x.shape[axis]
        picked = movement.places(index, wanted)
        return ((args[0] if args else kwargs["x"]), picked.tolist()), {}


@register_rule(*known(ops.numpy, "Split ArraySplit"))
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

    def config(self, visit: Visit, kept: Kept) -> dict[str, Any]:
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
        parts = np.array_split(np.arange(length), op.indices_or_sections)
        cuts = np.cumsum([p.size for p in parts])[:-1].tolist()
    else:
        cuts = [int(c) for c in op.indices_or_sections]
        # As in NumPy, cuts may be negative or lie beyond the end.
        cuts = [min(c if c >= 0 else c + length, length) for c in cuts]
    return list(zip([0, *cuts], [*cuts, length], strict=True))


@register_rule(ops.core.Slice)
class SliceRule(Rule):
    def trace(self, call: Call) -> Labels | list[Labels]:
        x = call.input
        key = self._key(argument(call, 1, "start_indices"), call.output_shape)
        if key is None:
            return call.pin_all(f"{call!r} starts at computed indices")
        return movement.take_key(call, x, key, call.output_shape)

    @staticmethod
    def _key(starts: Any, shape: Shape) -> tuple[slice, ...] | None:
        if any(isinstance(v, Labels) for v in keras.tree.flatten(starts)):
            return None
        starts = [int(v) for v in np.ravel(starts)]
        return tuple(
            slice(s, None if n is None else s + n)
            for s, n in zip(starts, shape, strict=True)
        )

    def _cuts(
        self, visit: Visit, kept: Kept
    ) -> list[tuple[int, np.ndarray, slice]]:
        x = visit.inputs[0]
        starts = (
            visit.args[1]
            if len(visit.args) > 1
            else visit.kwargs["start_indices"]
        )
        key = self._key(starts, visit.outputs[0].shape)
        cuts = []
        for axis, entry in enumerate(key or ()):
            index = kept.positions(x, axis)
            if index is not None:
                cuts.append((axis, index, entry))
        return cuts

    def config(self, visit: Visit, kept: Kept) -> dict[str, Any]:
        config = configuration(visit.operation)
        shape = list(visit.operation.shape)
        for axis, index, entry in self._cuts(visit, kept):
            inside = (index >= entry.start) & (index < entry.stop)
            shape[axis] = int(inside.sum())
        return {**config, "shape": tuple(shape)}

    def arguments(
        self,
        visit: Visit,
        kept: Kept,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        cuts = self._cuts(visit, kept)
        if not cuts:
            return args, kwargs
        tensor = args[0] if args else kwargs["inputs"]
        given = args[1] if len(args) > 1 else kwargs["start_indices"]
        starts = [int(v) for v in np.ravel(given)]
        for axis, index, entry in cuts:
            starts[axis] = int(np.searchsorted(index, entry.start))
        return (tensor, tuple(starts)), {}
