"""What ends the outputs of a model: a softmax, a sigmoid, or anything else."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
from keras import layers
from keras.src import ops

from kprune.graph import walk
from kprune.session.program import Program
from kprune.session.program import ProgramCall


@dataclasses.dataclass(frozen=True)
class End:
    """The last call before an output that does more than to shape or cast it.

    Args:
        call: The call.
        slot: The slot of the call's output.
        behind: The calls from there to the model's output.
        axis: The axis, from the end, that is the last one of the model's output, or
            None if there is no such axis.
    """

    call: ProgramCall
    slot: int
    behind: tuple[ProgramCall, ...]
    axis: int | None

    @property
    def layer(self) -> Any:
        """The layer that is called, without mask wrapper and `TimeDistributed`."""
        layer = self.call.layer
        while isinstance(layer, layers.TimeDistributed):
            layer = walk.unwrap(layer.layer)
        return layer

    @property
    def index(self) -> int:
        """Which output of the call it is."""
        return self.call.outputs.index(self.slot)

    @property
    def squashes(self) -> bool:
        """Whether the layer, or its activation, is a softmax or sigmoid."""
        activation = getattr(self.layer, "activation", None)
        return self.only_squashes or _named(activation) in _SQUASHING

    @property
    def only_squashes(self) -> bool:
        """Whether the layer is nothing but a softmax or sigmoid."""
        if isinstance(self.layer, layers.Activation):
            return _named(self.layer.activation) in _SQUASHING
        kinds = layers.Softmax | ops.nn.Softmax | ops.nn.Sigmoid
        return isinstance(self.layer, kinds)

    @property
    def clipped(self) -> bool:
        """Whether numbers other than probabilities would be changed behind it."""
        return any(isinstance(c.layer, ops.numpy.Clip) for c in self.behind)


def ends(program: Program) -> list[End | None]:
    """Return what ends each output. It is None if that is an input.

    Args:
        program: The calls of a model.
    """
    makers = {slot: call for call in program.calls for slot in call.outputs}
    found: list[End | None] = []
    for slot in program.outputs:
        behind: list[ProgramCall] = []
        axis: int | None = -1
        call = makers.get(slot)
        while call is not None and len(call.given) == 1 and _keeps(call.layer):
            behind.insert(0, call)
            axis = _axis_before(call, axis)
            slot = call.given[0]
            call = makers.get(slot)
        end = None if call is None else End(call, slot, tuple(behind), axis)
        found.append(end)
    return found


def endings(model: keras.Model) -> list[str]:
    """Return what each output is, by the layer or operation that ends it.

    What only shapes, casts or clips an output does not count.

    Args:
        model: A functional model.

    Returns:
        `"softmax"` or `"log_softmax"` over the last axis, or `"sigmoid"`; `"linear"`
        for a layer that could have an activation, but has none; `""` for another
        activation; and `"unknown"` for anything else.
    """
    return [
        "unknown" if end is None else _kind(end, end.layer)
        for end in ends(Program(model))
    ]


def _kind(end: End, layer: Any) -> str:
    if isinstance(layer, layers.Softmax | ops.nn.Softmax | ops.nn.LogSoftmax):
        log = isinstance(layer, ops.nn.LogSoftmax)
        kind = "log_softmax" if log else "softmax"
        return kind if _axis(end, layer) == end.axis else ""
    if isinstance(layer, ops.nn.Sigmoid):
        return "sigmoid"
    if isinstance(layer, _ACTIVATIONS) or type(layer).__module__ == _ACTING:
        return ""
    if isinstance(layer, keras.Model) and walk.functional_of(layer) is not None:
        kind = endings(layer)[end.index]
    elif not hasattr(layer, "activation"):
        return "unknown"
    elif isinstance(layer.activation, layers.Layer):
        return _kind(end, layer.activation)
    else:
        kind = _named(layer.activation)
    return "" if kind.endswith("softmax") and end.axis != -1 else kind


def _axis(end: End, softmax: Any) -> int | None:
    """Return the only axis of a softmax, from the end, or None."""
    axes = softmax.axis if softmax.axis is not None else ()
    axes = (axes,) if isinstance(axes, int) else tuple(axes)
    if len(axes) != 1:
        return None
    rank = len(end.call.node.outputs[end.index].shape)
    layer = end.call.layer
    while isinstance(layer, layers.TimeDistributed):
        rank -= 1
        layer = walk.unwrap(layer.layer)
    (axis,) = axes
    return axis if axis < 0 else axis - rank


def _named(activation: Any) -> str:
    """Return the name of a known activation, or `""`."""
    if activation is None:
        return "linear"
    for name in ("linear", "log_softmax", *_SQUASHING):
        if activation == getattr(keras.activations, name) or (
            activation == getattr(keras.ops, name, None)
        ):
            return name
    return ""


def _keeps(layer: Any) -> bool:
    """Return whether a layer leaves probabilities and logits what they are."""
    if isinstance(layer, layers.Activation):
        return _named(layer.activation) == "linear"
    return isinstance(layer, (*_KEEPING, *_RESHAPING, *_EXTENDING, *_PERMUTING))


def _axis_before(call: ProgramCall, axis: int | None) -> int | None:
    """Return which axis of a call's input is an axis of its output, from the end."""
    before, after = call.tensors[0].shape, call.node.outputs[0].shape
    if axis is None:
        return None
    if isinstance(call.layer, _PERMUTING):
        # Sizes that are all different tell where each axis goes.
        rank = len(before)
        sizes = keras.KerasTensor(tuple(range(rank)))
        return call.layer.compute_output_spec(sizes).shape[axis] - rank
    if isinstance(call.layer, _EXTENDING):
        return axis if axis == -1 and before[-1:] == after[-1:] else None
    if isinstance(call.layer, _RESHAPING):
        return axis if axis == -1 and after[-1:] != (1,) else None
    return axis


_SQUASHING = ("softmax", "sigmoid")

_KEEPING = (
    layers.ActivityRegularization,
    layers.AlphaDropout,
    layers.Dropout,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.Identity,
    ops.core.Cast,
    ops.numpy.Clip,
)

_RESHAPING = (layers.Flatten, layers.Reshape, ops.numpy.Reshape)

_EXTENDING = (ops.numpy.ExpandDims, ops.numpy.Squeeze)

_PERMUTING = (
    layers.Permute,
    ops.numpy.Moveaxis,
    ops.numpy.Swapaxes,
    ops.numpy.Transpose,
)

_ACTIVATIONS = (layers.ReLU, layers.LeakyReLU, layers.PReLU, layers.ELU)

_ACTING = ops.nn.__name__
"""The module of activations in `keras.ops`."""
