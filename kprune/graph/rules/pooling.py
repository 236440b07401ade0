"""Pooling, padding, cropping and upsampling along spatial axes."""

from __future__ import annotations

from keras import layers

from kprune.graph.call import Call
from kprune.graph.labels import Labels
from kprune.graph.registry import Rule
from kprune.graph.registry import register_rule
from kprune.graph.rules.convolution import channel_axis
from kprune.graph.rules.convolution import convolved


def _public(*names: str) -> list[type]:
    return [getattr(layers, n) for n in names]


@register_rule(
    *_public(
        *(f"{k}Pooling{d}D" for k in ("Max", "Average") for d in (1, 2, 3))
    ),
    *_public(*(f"AdaptiveMaxPooling{d}D" for d in (1, 2, 3))),
    *_public(*(f"AdaptiveAveragePooling{d}D" for d in (1, 2, 3))),
    *_public("ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D"),
    *_public("Cropping1D", "Cropping2D", "Cropping3D"),
    *_public("UpSampling1D", "UpSampling2D", "UpSampling3D"),
    *_public("Resizing", "CenterCrop"),
)
class SpatialRule(Rule):
    def trace(self, call: Call) -> Labels:
        x = call.input
        axis = x.rank - 1
        if hasattr(call.layer, "data_format"):
            axis = channel_axis(call.layer, x.rank)
        spatial = [a for a in range(x.rank) if a != axis]
        x = call.settle(x, spatial, f"{call!r} works along this axis")
        fill = getattr(call.layer, "fill_value", 0)
        return x.replace(shape=call.output_shape, zero=x.zero and not fill)


@register_rule(
    *_public(
        *(
            f"Global{k}Pooling{d}D"
            for k in ("Max", "Average")
            for d in (1, 2, 3)
        )
    )
)
class GlobalPoolingRule(Rule):
    def trace(self, call: Call) -> Labels:
        x, axis = convolved(call)
        slots = call.one_axis(x, axis)
        shape = call.output_shape
        rank = len(shape)
        keep = 1 if rank == 2 else axis
        lengths = [1] * rank
        lengths[keep] = -1
        factors = tuple(s.reshape(lengths) for s in slots)
        return Labels(shape, factors, x.zero, x.why)
