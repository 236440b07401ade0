"""Layers that only `keras.applications` has."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras.src.applications.convnext import LayerScale
from keras.src.applications.convnext import StochasticDepth
from keras.src.applications.inception_resnet_v2 import CustomScaleLayer

from kprune.graph.call import SCALE
from kprune.graph.call import Axis
from kprune.graph.call import Call
from kprune.graph.kept import Kept
from kprune.graph.labels import Labels
from kprune.graph.record import Visit
from kprune.graph.registry import Rule
from kprune.graph.registry import register_rule


@register_rule(LayerScale)
class LayerScaleRule(Rule):
    def trace(self, call: Call) -> Labels:
        x = call.input
        labels = call.one_axis(x, -1)
        call.bind(call.layer.gamma, {0: Axis(labels, SCALE)})
        # The product is 0 where gamma is 0, whatever the input.
        others = call.rest(x, x.rank - 1)
        return x.replace(zero=x.zero or not others)

    def config(self, visit: Visit, kept: Kept) -> dict[str, Any]:
        config = visit.operation.get_config()
        config["projection_dim"] = kept.size(visit.operation.gamma, 0)
        return config


@register_rule(StochasticDepth)
class StochasticDepthRule(Rule):
    """Scales whole samples, so labels pass unchanged."""

    def trace(self, call: Call) -> Labels:
        return call.input


@register_rule(CustomScaleLayer)
class CustomScaleRule(Rule):
    """`inputs[0] + inputs[1] * scale`, where the scale is a scalar."""

    def trace(self, call: Call) -> Labels | list[Labels]:
        if np.ndim(call.layer.scale):
            return call.pin_all(f"{call!r} has one scale per channel")
        return call.join(call.inputs, call.output_shape)
