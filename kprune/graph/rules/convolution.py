"""Convolutions: plain, grouped, transposed, depthwise and separable."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import layers
from keras import ops

from kprune.graph.call import FILTER
from kprune.graph.call import INPUT
from kprune.graph.call import SCALE
from kprune.graph.call import Axis
from kprune.graph.call import Call
from kprune.graph.call import channel_factor
from kprune.graph.kept import Kept
from kprune.graph.labels import Labels
from kprune.graph.record import Visit
from kprune.graph.registry import Rule
from kprune.graph.registry import register_rule


def channel_axis(layer: Any, rank: int) -> int:
    """Return the non-negative channel axis of a tensor of `rank`."""
    return 1 if layer.data_format == "channels_first" else rank - 1


def spatial_axes(channels: int, rank: int) -> list[int]:
    """Return all axes except batch and channels."""
    return [a for a in range(1, rank) if a != channels]


def convolved(call: Call) -> tuple[Labels, int]:
    """Return the input, settled along its spatial axes, and its channel axis."""
    x = call.input
    axis = channel_axis(call.layer, x.rank)
    why = f"{call!r} slides over this axis"
    return call.settle(x, [0, *spatial_axes(axis, x.rank)], why), axis


def positions(call: Call, axis: int) -> list[int | None]:
    """Return the sizes of the spatial output axes."""
    shape = call.output_shape
    return [shape[a] for a in spatial_axes(axis, len(shape))]


def produce(call: Call, slots: np.ndarray, axis: int) -> Labels:
    """Return the output labels of a producer whose filters are `slots`."""
    shape = call.output_shape
    if slots.size == 1:
        call.pin(slots, "the only filter of its layer")
        return Labels(shape, why=f"{call!r} has a single filter")
    out = Labels(shape, (channel_factor(slots, axis, len(shape)),))
    return call.activate(out, call.layer.activation)


@register_rule(layers.Conv1D, layers.Conv2D, layers.Conv3D)
class ConvRule(Rule):
    linear = True

    def trace(self, call: Call) -> Labels:
        layer = call.layer
        x, axis = convolved(call)
        incoming = call.one_axis(x, axis)
        slots = call.filters(layer._kernel, -1)
        if layer.groups > 1:
            incoming = self._tie_groups(
                call, incoming, slots, x.shape[axis] or 0
            )
        call.bind(
            layer._kernel,
            {-2: Axis(incoming, INPUT, axis), -1: Axis([slots], FILTER)},
        )
        call.bind(layer.bias, {0: Axis([slots], FILTER)})
        call.work(layer._kernel, positions(call, axis))
        return produce(call, slots, axis)

    @staticmethod
    def _tie_groups(
        call: Call, incoming: list[np.ndarray], slots: np.ndarray, channels: int
    ) -> list[np.ndarray]:
        """Couple channels so that all convolution groups stay of equal size.

        All groups share the kernel's input axis. If there are at least as many
        groups as channels per group, whole groups are removed. Otherwise (or if
        all inputs must stay), the i-th channels of all groups are.
        """
        groups = call.layer.groups
        inner = channels // groups
        outputs = slots.reshape(groups, -1)
        if groups >= inner and incoming:
            rows = [a.reshape(groups, inner) for a in incoming]
            for row in rows:
                call.union(row, outputs[:, :1])
            call.union(outputs, outputs[:, :1])
            return []
        call.union(outputs, outputs[:1])
        tied = []
        for array in incoming:
            rows_of = array.reshape(groups, inner)
            call.union(rows_of, rows_of[:1])
            tied.append(rows_of[0])
        return tied

    def grouped(self, layer: Any, kernel: Any) -> tuple[Any, int]:
        return kernel, layer.groups

    def config(self, visit: Visit, kept: Kept) -> dict[str, Any]:
        layer = visit.operation
        config = layer.get_config()
        config["filters"] = kept.size(layer._kernel, -1)
        if layer.groups > 1:
            x = visit.inputs[0]
            axis = channel_axis(layer, x.rank)
            left = kept.shape(x)[axis] or 0
            config["groups"] = left // kept.size(layer._kernel, -2)
        return config


@register_rule(
    layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose
)
class ConvTransposeRule(Rule):
    def trace(self, call: Call) -> Labels:
        layer = call.layer
        x, axis = convolved(call)
        slots = call.filters(layer.kernel, -2)
        incoming = Axis(call.one_axis(x, axis), INPUT, axis)
        call.bind(layer.kernel, {-1: incoming, -2: Axis([slots], FILTER)})
        call.bind(layer.bias, {0: Axis([slots], FILTER)})
        # Every input position is multiplied with the whole kernel.
        call.work(
            layer.kernel, [x.shape[a] for a in spatial_axes(axis, x.rank)]
        )
        return produce(call, slots, axis)

    def grouped(self, layer: Any, kernel: Any) -> tuple[Any, int]:
        return ops.swapaxes(kernel, -1, -2), 1

    def config(self, visit: Visit, kept: Kept) -> dict[str, Any]:
        config = visit.operation.get_config()
        config["filters"] = kept.size(visit.operation.kernel, -2)
        return config


def _depthwise(
    call: Call, kernel: Any, x: Labels, axis: int
) -> list[np.ndarray]:
    """Bind a depthwise kernel; return the labels of its output channels."""
    multiplier = kernel.shape[-1]
    incoming = call.one_axis(x, axis)
    call.bind(kernel, {-2: Axis(incoming, SCALE, axis)})
    return [np.repeat(a, multiplier) for a in incoming]


@register_rule(layers.DepthwiseConv1D, layers.DepthwiseConv2D)
class DepthwiseConvRule(Rule):
    def trace(self, call: Call) -> Labels:
        layer = call.layer
        x, axis = convolved(call)
        outgoing = _depthwise(call, layer.kernel, x, axis)
        if layer.bias is not None:
            call.bind_all([layer.bias], outgoing, SCALE)
        call.work(layer.kernel, positions(call, axis))
        shape = call.output_shape
        factors = tuple(channel_factor(a, axis, len(shape)) for a in outgoing)
        return call.activate(
            Labels(shape, factors, True, x.why), layer.activation
        )

    def grouped(self, layer: Any, kernel: Any) -> tuple[Any, int]:
        *window, channels, multiplier = kernel.shape
        shape = (*window, 1, channels * multiplier)
        return ops.reshape(kernel, shape), channels


@register_rule(layers.SeparableConv1D, layers.SeparableConv2D)
class SeparableConvRule(Rule):
    def trace(self, call: Call) -> Labels:
        layer = call.layer
        x, axis = convolved(call)
        between = _depthwise(call, layer.depthwise_kernel, x, axis)
        slots = call.filters(layer.pointwise_kernel, -1)
        # No tensor shows the channels between the two kernels, but the pointwise
        # kernel reads them like any input.
        call.bind(
            layer.pointwise_kernel,
            {-2: Axis(between, INPUT, None), -1: Axis([slots], FILTER)},
        )
        call.bind(layer.bias, {0: Axis([slots], FILTER)})
        where = positions(call, axis)
        call.work(layer.depthwise_kernel, where)
        call.work(layer.pointwise_kernel, where)
        return produce(call, slots, axis)

    def config(self, visit: Visit, kept: Kept) -> dict[str, Any]:
        config = visit.operation.get_config()
        config["filters"] = kept.size(visit.operation.pointwise_kernel, -1)
        return config
