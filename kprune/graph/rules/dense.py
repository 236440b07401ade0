"""Dense layers on tensors of any rank."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import layers

from kprune.graph.call import FILTER
from kprune.graph.call import INPUT
from kprune.graph.call import Axis
from kprune.graph.call import Call
from kprune.graph.call import channel_factor
from kprune.graph.kept import Kept
from kprune.graph.labels import Labels
from kprune.graph.record import Visit
from kprune.graph.registry import Rule
from kprune.graph.registry import register_rule


@register_rule(layers.Dense)
class DenseRule(Rule):
    linear = True

    def trace(self, call: Call) -> Labels:
        layer = call.layer
        x = call.input
        last = x.rank - 1
        incoming = call.one_axis(x, last)
        slots = call.filters(layer._kernel, -1)
        call.bind(
            layer._kernel,
            {0: Axis(incoming, INPUT, last), 1: Axis([slots], FILTER)},
        )
        call.bind(layer.bias, {0: Axis([slots], FILTER)})
        passing = call.rest(x, last)
        rows = [
            call.one_axis(x.replace(factors=passing), a) for a in range(1, last)
        ]
        free = [n for n, r in zip(x.shape[1:last], rows, strict=True) if not r]
        call.work(layer._kernel, free, [r for r in rows if r])
        shape = call.output_shape
        if slots.size == 1:
            call.pin(slots, "the only unit of its layer")
            own: tuple[np.ndarray, ...] = ()
        else:
            own = (channel_factor(slots, last, len(shape)),)
        zero = not passing or (x.zero and layer.bias is None)
        why = "" if own else f"{call!r} has a single unit"
        return call.activate(
            Labels(shape, passing + own, zero, why), layer.activation
        )

    def config(self, visit: Visit, kept: Kept) -> dict[str, Any]:
        config = visit.operation.get_config()
        config["units"] = kept.size(visit.operation._kernel, 1)
        return config
