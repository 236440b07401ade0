"""TimeDistributed: the rule of the inner layer, applied to a single time step."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from kprune.graph import movement
from kprune.graph.call import Call
from kprune.graph.kept import Kept
from kprune.graph.labels import Labels
from kprune.graph.record import Visit
from kprune.graph.registry import Rule
from kprune.graph.registry import find_rule
from kprune.graph.registry import register_rule


@register_rule(layers.TimeDistributed)
class TimeDistributedRule(Rule):
    def trace(self, call: Call) -> Labels | list[Labels]:
        inner = call.layer.layer
        rule = find_rule(inner)
        if rule is None or len(call.output_shapes) > 1:
            kind = type(inner).__name__
            why = f"{call!r} repeats '{inner.name}' ({kind}), which has no rule"
            return call.pin_all(why)
        x = call.settle(call.input, [0, 1], f"{call!r} runs along this axis")
        shape = call.output_shape
        steps = x.shape[1]
        step = x.replace(
            shape=(x.shape[0], *x.shape[2:]),
            factors=tuple(f[:, 0] for f in x.factors),
        )
        within = call.step(inner, step, (shape[0], *shape[2:]), steps or 1)
        found = rule.trace(within)
        out = found if isinstance(found, Labels) else next(iter(found))
        call.inner = Visit(inner, (step,), {}, [out], rule, {}, within.inner)
        return movement.expand(out, 1).replace(shape=shape)

    def config(self, visit: Visit, kept: Kept) -> dict[str, Any]:
        config = visit.operation.get_config()
        if visit.inner is not None:
            new = visit.inner.rule.shrink(visit.inner, kept)
            config["layer"] = keras.saving.serialize_keras_object(new)
        return config

    def arrange(self, layer: Any, new: Any) -> None:
        rule = find_rule(layer.layer)
        if rule is not None:
            rule.arrange(layer.layer, new.layer)

    def masked_call(
        self,
        layer: Any,
        masks: dict[str, Any],
        inputs: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        rule = find_rule(layer.layer)
        if rule is None or not masks:
            return layer(inputs, *args, **kwargs)
        shape = keras.ops.shape(inputs)
        flat = keras.ops.reshape(inputs, (-1, *shape[2:]))
        out = rule.masked_call(layer.layer, masks, flat)
        return keras.ops.reshape(out, (-1, shape[1], *keras.ops.shape(out)[1:]))
