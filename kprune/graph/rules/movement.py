"""Layers that only move data; the same movement is applied to the labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import layers

from kprune.graph import movement
from kprune.graph.call import Call
from kprune.graph.kept import Kept
from kprune.graph.labels import Labels
from kprune.graph.record import Visit
from kprune.graph.registry import Rule
from kprune.graph.registry import register_rule


@register_rule(layers.Flatten)
class FlattenRule(Rule):
    def trace(self, call: Call) -> Labels:
        x = call.input
        if call.layer.data_format == "channels_first" and x.rank > 2:
            x = movement.transpose(x, [0, *range(2, x.rank), 1])
        return movement.reshape(call, x, call.output_shape)


@register_rule(layers.Reshape)
class ReshapeRule(Rule):
    def trace(self, call: Call) -> Labels:
        return movement.reshape(call, call.input, call.output_shape)

    def config(self, visit: Visit, kept: Kept) -> dict[str, Any]:
        config = visit.operation.get_config()
        new = kept.shape(visit.outputs[0])[1:]
        if new != tuple(visit.outputs[0].shape[1:]):
            config["target_shape"] = tuple(-1 if n is None else n for n in new)
        return config


@register_rule(layers.Permute)
class PermuteRule(Rule):
    def trace(self, call: Call) -> Labels:
        return movement.transpose(call.input, [0, *call.layer.dims])


@register_rule(layers.RepeatVector)
class RepeatVectorRule(Rule):
    def trace(self, call: Call) -> Labels:
        x = call.input
        factors = tuple(f[:, np.newaxis] for f in x.factors)
        return x.replace(shape=call.output_shape, factors=factors)


@register_rule(layers.Concatenate)
class ConcatenateRule(Rule):
    def trace(self, call: Call) -> Labels:
        inputs = call.tensors
        axis = call.layer.axis % inputs[0].rank
        return movement.concatenate(call, inputs, axis, call.output_shape)
