"""Recurrent layers, whose units are read again at the next step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from kprune.graph.activations import describe_activation
from kprune.graph.call import Call
from kprune.graph.call import channel_factor
from kprune.graph.kept import Kept
from kprune.graph.labels import Labels
from kprune.graph.labels import Shape
from kprune.graph.record import FILTER
from kprune.graph.record import INPUT
from kprune.graph.record import Axis
from kprune.graph.record import Visit
from kprune.graph.registry import Rule
from kprune.graph.registry import register_rule
from kprune.graph.values import copy_value

# Blocks of units along the last axis of a cell's kernels: one per gate.
GATES = {layers.SimpleRNNCell: 1, layers.GRUCell: 3, layers.LSTMCell: 4}
CONVOLUTIONAL = (layers.ConvLSTM1D, layers.ConvLSTM2D, layers.ConvLSTM3D)
PLAIN = (layers.SimpleRNN, layers.GRU, layers.LSTM)


def cells_of(layer: Any) -> list[Any] | None:
    """Return the cells of a recurrent layer, or None if one is unknown."""
    if type(layer) in CONVOLUTIONAL:
        return [layer.cell]
    if type(layer) not in (*PLAIN, layers.RNN):
        return None
    stacked = type(layer.cell) is layers.StackedRNNCells
    cells = layer.cell.cells if stacked else [layer.cell]
    return cells if all(type(c) in GATES for c in cells) else None


def why_unknown(layer: Any) -> str | None:
    """Return why a recurrent layer is not analysed, or None."""
    if cells_of(layer) is None:
        cell = type(getattr(layer, "cell", layer)).__name__
        return (
            f"recurrent layer '{layer.name}' has a cell without a rule ({cell})"
        )
    return None


def arguments_of(call: Call) -> tuple[Labels, list[Labels] | None]:
    """Return the labels of the sequence, and of the initial states if given."""
    sequence = call.args[0] if call.args else call.kwargs["sequences"]
    given = call.args[1] if len(call.args) > 1 else None
    given = call.kwargs.get("initial_state", given)
    if given is None:
        return sequence, None
    states = [
        call.labels_of(s, "a constant initial state")
        for s in keras.tree.flatten(given)
    ]
    return sequence, states


class Direction:
    """Labels of one recurrent layer that reads a sequence.

    Args:
        call: The call, of the layer itself or of its `Bidirectional` wrapper.
        layer: The recurrent layer.
        x: Labels of the sequence.
        states: Labels of the initial states, None where they are 0.
    """

    def __init__(
        self, call: Call, layer: Any, x: Labels, states: list[Labels] | None
    ) -> None:
        self._call = call
        self._layer = layer
        self._states = states
        convolutional = type(layer) in CONVOLUTIONAL
        first = convolutional and layer.data_format == "channels_first"
        self._axis = 2 if first else x.rank - 1
        others = [a for a in range(x.rank) if a != self._axis]
        x = call.settle(x, others, f"{call!r} runs along this axis")
        incoming = call.one_axis(x, self._axis)
        cells = cells_of(layer) or []
        known = None if states is None else iter(states)
        positions = [x.shape[1], *self._spatial()]
        self.units: list[np.ndarray] = []
        self.zeros: list[bool] = []
        for cell in cells:
            # A convolutional cell has no `state_size`: its states are h and c.
            count = (
                2 if convolutional else len(keras.tree.flatten(cell.state_size))
            )
            own = None if known is None else [next(known) for _ in range(count)]
            units = self._bind(cell, incoming, positions, not self.units)
            zero = self._start(cell, units, own)
            incoming = [units] if units.size > 1 else []
            self.units += [units] * count
            self.zeros += [zero] * count
        self.last, self.zero = units, zero
        if layer.stateful:
            why = f"stateful recurrent layer '{layer.name}' keeps state between calls"
            for array in [*x.factors, *self.units]:
                call.pin(array, why)

    def _spatial(self) -> list[int | None]:
        if type(self._layer) not in CONVOLUTIONAL:
            return []
        shape = list(self._call.output_shapes[0])
        if self._layer.return_sequences:
            del shape[1]
        del shape[self._axis - 1]
        return shape[1:]

    def _bind(
        self,
        cell: Any,
        incoming: list[np.ndarray],
        positions: list[int | None],
        first: bool,
    ) -> np.ndarray:
        call = self._call
        units = call.filters(cell.recurrent_kernel, -2)
        gates = cell.recurrent_kernel.shape[-1] // units.size
        wide = np.tile(units, gates)
        read = Axis(incoming, INPUT, self._axis if first else None)
        call.bind(cell.kernel, {-2: read, -1: Axis([wide], FILTER)})
        again = Axis([units], INPUT, None)
        call.bind(cell.recurrent_kernel, {-2: again, -1: Axis([wide], FILTER)})
        # The bias of GRU(reset_after=True) has two rows.
        call.bind(cell.bias, {-1: Axis([wide], FILTER)})
        call.work(cell.kernel, positions)
        call.work(cell.recurrent_kernel, positions)
        if units.size == 1:
            call.pin(units, "the only unit of its layer")
        return units

    def _start(
        self, cell: Any, units: np.ndarray, states: list[Labels] | None
    ) -> bool:
        """Couple initial states with the units.

        Returns:
            Whether removed units stay 0.
        """
        call = self._call
        zero = True
        for state in states or []:
            axis = state.rank - 1
            if type(self._layer) in CONVOLUTIONAL:
                axis = self._axis - 1
                others = [a for a in range(state.rank) if a != axis]
                why = f"{call!r} slides over this axis"
                state = call.settle(state, others, why)
            arrays = call.one_axis(state, axis)
            for array in arrays:
                call.union(array, units)
            if not arrays:
                call.pin(units, state.why or f"an initial state of {call!r}")
            zero = zero and state.zero
        for name in ("activation", "recurrent_activation"):
            kind = describe_activation(
                getattr(cell, name, None) or keras.activations.linear
            )
            if not kind.elementwise or not kind.tolerates(True):
                call.pin(
                    units,
                    f"{name} of {call!r} mixes units or is not finite at 0",
                )
            if name == "activation":
                zero = zero and kind.zero_at_zero
        return zero

    def sequence(self, shape: Shape) -> Labels:
        """Return the labels of the output."""
        axis = self._axis if self._layer.return_sequences else self._axis - 1
        return self._labels(self.last, shape, axis, self.zero)

    def states(self, shapes: Sequence[Shape]) -> list[Labels]:
        """Return the labels of the final states."""
        found = zip(self.units, self.zeros, shapes, strict=True)
        return [self._labels(u, s, self._axis - 1, z) for u, z, s in found]

    def _labels(
        self, units: np.ndarray, shape: Shape, axis: int, zero: bool
    ) -> Labels:
        if units.size == 1:
            return Labels(shape, why=f"{self._call!r} has a single unit")
        return Labels(shape, (channel_factor(units, axis, len(shape)),), zero)


@register_rule(*PLAIN, *CONVOLUTIONAL, layers.RNN)
class RecurrentRule(Rule):
    def trace(self, call: Call) -> list[Labels]:
        why = why_unknown(call.layer)
        if why is not None:
            return call.pin_all(why)
        x, states = arguments_of(call)
        direction = Direction(call, call.layer, x, states)
        first, *rest = call.output_shapes
        outputs = [direction.sequence(first)]
        return outputs + (direction.states(rest) if rest else [])

    def config(self, visit: Visit, kept: Kept) -> dict[str, Any]:
        return recurrent_config(visit.operation, kept)

    def arrange(self, layer: Any, new: Any) -> None:
        _copy_states(layer, new)


def _copy_states(layer: Any, new: Any) -> None:
    """Copy the states of a stateful layer, which are not among its variables."""
    if not getattr(layer, "stateful", False):
        return
    states = (keras.tree.flatten(one.states) for one in (layer, new))
    for source, target in zip(*states, strict=True):
        copy_value(source, target)


def recurrent_config(layer: Any, kept: Kept) -> dict[str, Any]:
    """Return the configuration of a recurrent layer with fewer units."""
    config = layer.get_config()
    cells = cells_of(layer)
    if cells is None or layer.stateful:
        return config
    sizes = [kept.size(c.recurrent_kernel, -2) for c in cells]
    if type(layer) in CONVOLUTIONAL:
        config["filters"] = sizes[0]
    elif type(layer) in PLAIN:
        config["units"] = sizes[0]
    else:
        inner = config["cell"] = unbuilt(config["cell"])
        if type(layer.cell) is layers.StackedRNNCells:
            known = [unbuilt(c) for c in inner["config"]["cells"]]
            for cell, size in zip(known, sizes, strict=True):
                cell["config"]["units"] = size
            inner["config"]["cells"] = known
        else:
            inner["config"]["units"] = sizes[0]
    return config


def unbuilt(serialized: dict[str, Any]) -> dict[str, Any]:
    """Return a serialized layer without the shapes it was built for."""
    copy = {k: v for k, v in serialized.items() if k != "build_config"}
    return {**copy, "config": dict(serialized["config"])}


@register_rule(layers.Bidirectional)
class BidirectionalRule(Rule):
    def trace(self, call: Call) -> list[Labels]:
        layer = call.layer
        pair = (layer.forward_layer, layer.backward_layer)
        for one in pair:
            why = why_unknown(one)
            if (
                type(one) in CONVOLUTIONAL
                and one.data_format == "channels_first"
            ):
                why = f"{call!r} concatenates along an axis that is not the channels'"
            if why is not None:
                return call.pin_all(why)
        x, states = arguments_of(call)
        half = None if states is None else len(states) // 2
        ahead = Direction(call, pair[0], x, states and states[:half])
        back = Direction(call, pair[1], x, states and states[half:])
        # Keras doubles the width of the forward layer, so both stay equally wide.
        call.union(ahead.last, back.last)
        shapes = call.output_shapes
        count = 2 if layer.merge_mode is None else 1
        left, right = (
            ahead.sequence(shapes[0]),
            back.sequence(shapes[count - 1]),
        )
        if layer.merge_mode is None:
            outputs = [left, right]
        else:
            outputs = [self._merge(layer.merge_mode, ahead, back, left, right)]
        rest = shapes[count:]
        middle = len(rest) // 2
        if rest:
            outputs += ahead.states(rest[:middle]) + back.states(rest[middle:])
        return outputs

    @staticmethod
    def _merge(
        mode: str,
        ahead: Direction,
        back: Direction,
        left: Labels,
        right: Labels,
    ) -> Labels:
        zero = left.zero and right.zero
        if mode == "mul":
            zero = left.zero or right.zero
        if mode != "concat":
            return left.replace(zero=zero)
        if not left.factors:
            return left
        both = np.concatenate([ahead.last, back.last])
        rank = left.rank
        return left.replace(
            factors=(channel_factor(both, -1, rank),), zero=zero
        )

    def config(self, visit: Visit, kept: Kept) -> dict[str, Any]:
        layer = visit.operation
        config = layer.get_config()
        for name, inner in (
            ("layer", layer.forward_layer),
            ("backward_layer", layer.backward_layer),
        ):
            config[name] = unbuilt(config[name])
            config[name]["config"] = recurrent_config(inner, kept)
        return config

    def arrange(self, layer: Any, new: Any) -> None:
        _copy_states(layer.forward_layer, new.forward_layer)
        _copy_states(layer.backward_layer, new.backward_layer)
