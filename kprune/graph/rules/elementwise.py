"""Layers that work element by element, on one tensor or on several."""

from __future__ import annotations

from keras import layers

from kprune.graph.call import SCALE
from kprune.graph.call import Axis
from kprune.graph.call import Call
from kprune.graph.labels import Labels
from kprune.graph.registry import Rule
from kprune.graph.registry import register_rule


@register_rule(
    layers.Dropout,
    layers.AlphaDropout,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
    layers.ActivityRegularization,
    layers.Identity,
    layers.ReLU,
    layers.LeakyReLU,
    layers.ELU,
)
class PassRule(Rule):
    """f(0) == 0 at inference and no parameters: labels pass unchanged."""

    def trace(self, call: Call) -> Labels:
        return call.input.replace(shape=call.output_shape)


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


@register_rule(
    layers.Add,
    layers.Subtract,
    layers.Average,
    layers.Maximum,
    layers.Minimum,
)
class MergeRule(Rule):
    def trace(self, call: Call) -> Labels:
        return call.join(call.inputs, call.output_shape)


@register_rule(layers.Multiply)
class MultiplyRule(Rule):
    def trace(self, call: Call) -> Labels:
        return product(call, call.inputs)


def product(call: Call, inputs: list[Labels]) -> Labels:
    """One operand that is 0 at the removed positions makes the product 0."""
    out = call.join(inputs, call.output_shape)
    count = len(out.factors)
    zero = any(x.zero for x in inputs if x.factors and len(x.factors) == count)
    return out.replace(zero=out.zero or zero)
