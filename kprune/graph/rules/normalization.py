"""Batch normalisation and input normalisation."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import layers

from kprune.graph.call import SCALE
from kprune.graph.call import STATISTIC
from kprune.graph.call import Call
from kprune.graph.kept import Kept
from kprune.graph.labels import Labels
from kprune.graph.record import Visit
from kprune.graph.registry import Rule
from kprune.graph.registry import register_rule


@register_rule(layers.BatchNormalization)
class BatchNormalizationRule(Rule):
    batch_norm = True

    def trace(self, call: Call) -> Labels:
        layer = call.layer
        axis = layer.axis % call.input.rank
        others = [a for a in range(call.input.rank) if a != axis]
        x = call.settle(call.input, others, f"{call!r} averages over this axis")
        labels = call.one_axis(x, axis)
        scales = [v for v in (layer.gamma, layer.beta) if v is not None]
        call.bind_all(scales, labels, SCALE)
        statistics = [layer.moving_mean, layer.moving_variance]
        call.bind_all(statistics, labels, STATISTIC)
        # Statistics are never masked, so without gamma the output is not 0.
        return x.replace(shape=call.output_shape, zero=layer.gamma is not None)


@register_rule(layers.Rescaling)
class RescalingRule(Rule):
    def trace(self, call: Call) -> Labels:
        layer, x = call.layer, call.input
        for value in (layer.scale, layer.offset):
            shape = np.shape(value)
            for axis in range(1, len(shape) + 1):
                if shape[-axis] > 1 and axis != 1:
                    why = f"{call!r} has constants along this axis"
                    x = call.settle(x, [x.rank - axis], why)
        return x.replace(zero=x.zero and not np.any(layer.offset))

    def config(self, visit: Visit, kept: Kept) -> dict[str, Any]:
        config = visit.operation.get_config()
        x = visit.inputs[0]
        index = kept.positions(x, x.rank - 1)
        if index is not None:
            for name in ("scale", "offset"):
                value = np.asarray(config[name])
                if value.ndim and value.shape[-1] > 1:
                    config[name] = value[..., index].tolist()
        return config


@register_rule(layers.Normalization)
class NormalizationRule(Rule):
    def trace(self, call: Call) -> Labels:
        layer, x = call.layer, call.input
        own = [a % x.rank for a in layer._keep_axis]
        if own and own != [x.rank - 1]:
            x = call.settle(x, own, f"{call!r} has constants along this axis")
        return x.replace(zero=False)

    def config(self, visit: Visit, kept: Kept) -> dict[str, Any]:
        layer = visit.operation
        config = layer.get_config()
        x = visit.inputs[0]
        index = kept.positions(x, x.rank - 1)
        adapted = layer.input_mean is None
        mean = np.asarray(layer.mean).reshape(-1)
        variance = np.asarray(layer.variance).reshape(-1)
        if adapted and index is None:
            return config
        if index is not None and mean.size > 1:
            mean, variance = mean[index], variance[index]
        config["mean"], config["variance"] = mean.tolist(), variance.tolist()
        return config

    def arrange(self, layer: Any, new: Any) -> None:
        if new.input_mean is None:
            new.finalize_state()
