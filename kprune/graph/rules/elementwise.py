"""Layers that work element by element, on one tensor or on several."""

from __future__ import annotations

from typing import Any

from keras import layers

from kprune.graph import movement
from kprune.graph.call import SCALE
from kprune.graph.call import Axis
from kprune.graph.call import Call
from kprune.graph.call import covers
from kprune.graph.kept import Kept
from kprune.graph.labels import Labels
from kprune.graph.labels import lift
from kprune.graph.record import Visit
from kprune.graph.registry import Rule
from kprune.graph.registry import register_rule


@register_rule(
    layers.GaussianDropout,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
    layers.ActivityRegularization,
    layers.Identity,
)
class PassRule(Rule):
    """Layers with f(0) == 0 and no parameters: labels pass unchanged."""

    def trace(self, call: Call) -> list[Labels]:
        shapes = call.output_shapes
        return [
            x.replace(shape=shape)
            for x, shape in zip(call.tensors, shapes, strict=True)
        ]


@register_rule(layers.AlphaDropout, layers.GaussianNoise)
class NoiseRule(Rule):
    """Layers whose output at removed channels is not 0 in training."""

    def trace(self, call: Call) -> Labels:
        return call.input.replace(zero=False)


@register_rule(layers.Dropout)
class DropoutRule(PassRule):
    def reshapes(self, operation: Any) -> bool:
        return operation.noise_shape is not None

    def config(self, visit: Visit, kept: Kept) -> dict[str, Any]:
        config = visit.operation.get_config()
        noise = config.get("noise_shape")
        if noise is not None:
            x = visit.inputs[0]
            sizes = zip(noise, x.shape, kept.shape(x), strict=True)
            config["noise_shape"] = tuple(
                new if n == old else n for n, old, new in sizes
            )
        return config


@register_rule(layers.ReLU, layers.LeakyReLU, layers.ELU)
class ActivationLayerRule(Rule):
    """Activation functions with parameters, as layers."""

    def trace(self, call: Call) -> Labels:
        return call.activate(call.input, call.layer.call)


@register_rule(layers.Activation)
class ActivationRule(Rule):
    def trace(self, call: Call) -> Labels:
        return call.activate(call.input, call.layer.activation)


@register_rule(layers.Softmax)
class SoftmaxRule(Rule):
    def trace(self, call: Call) -> Labels:
        axes = call.layer.axis
        axes = [axes] if isinstance(axes, int) else list(axes)
        x = call.settle(call.input, axes, f"softmax over this axis in {call!r}")
        return x.replace(zero=False)


@register_rule(layers.PReLU)
class PReLURule(Rule):
    def trace(self, call: Call) -> Labels:
        x, alpha = call.input, call.layer.alpha
        axes = {}
        for axis in range(1, x.rank):
            if alpha.shape[axis - 1] > 1 and x.along(axis):
                axes[axis - 1] = Axis(call.one_axis(x, axis), SCALE)
        call.bind(alpha, axes)
        return x


@register_rule(layers.Masking)
class MaskingRule(Rule):
    """Masks steps at which all channels equal the mask value."""

    def trace(self, call: Call) -> Labels:
        x = call.input
        why = f"{call!r} compares these channels with its mask value"
        axes = [x.rank - 1] if call.layer.mask_value or not x.zero else []
        return call.settle(x, axes, why)


def same_rank(inputs: list[Labels]) -> list[Labels]:
    """Add missing axes after the batch axis, as Keras' merge layers do."""
    rank = max(x.rank for x in inputs)
    out = []
    for x in inputs:
        while x.rank < rank:
            x = movement.expand(x, 1)
        out.append(x)
    return out


@register_rule(
    layers.Add,
    layers.Subtract,
    layers.Average,
    layers.Maximum,
    layers.Minimum,
)
class MergeRule(Rule):
    def trace(self, call: Call) -> Labels:
        return call.join(same_rank(call.tensors), call.output_shape)


@register_rule(layers.Multiply)
class MultiplyRule(Rule):
    product = True

    def trace(self, call: Call) -> Labels:
        return product(call, same_rank(call.tensors))


def product(call: Call, inputs: list[Labels]) -> Labels:
    """Return the labels of a product, which is 0 where one operand is 0."""
    out = call.join(inputs, call.output_shape)
    lifted = [lift(x, out.rank) for x in inputs]
    zero = all(
        any(x.zero and covers(x, [f]) for x in lifted) for f in out.factors
    )
    return out.replace(zero=zero)
