"""Embeddings of tokens, and their reverse."""

from __future__ import annotations

from typing import Any

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


def embed(call: Call) -> Labels:
    """Return the output's labels: the columns of the embedding table."""
    shape = call.output_shape
    for x in call.inputs:
        call.pin(x.factors, f"{call!r} uses these values as indices")
    slots = call.filters(call.layer._embeddings, 1)
    call.bind(call.layer._embeddings, {1: Axis([slots], FILTER)})
    if slots.size == 1:
        call.pin(slots, "the only column of its table")
        return Labels(shape, why=f"{call!r} has a single column")
    return Labels(shape, (channel_factor(slots, -1, len(shape)),))


@register_rule(layers.Embedding)
class EmbeddingRule(Rule):
    def trace(self, call: Call) -> Labels:
        return embed(call)

    def config(self, visit: Visit, kept: Kept) -> dict[str, Any]:
        config = visit.operation.get_config()
        config["output_dim"] = kept.size(visit.operation._embeddings, 1)
        return config


def _reversed(call: Call) -> bool:
    given = call.args[1] if len(call.args) > 1 else call.kwargs.get("reverse")
    return bool(given)


@register_rule(layers.ReversibleEmbedding)
class ReversibleEmbeddingRule(Rule):
    def trace(self, call: Call) -> Labels:
        layer = call.layer
        if not _reversed(call):
            out = embed(call)
            if not layer.tie_weights:
                slots = call.filters(layer._embeddings, 1)
                call.bind(layer.reverse_embeddings, {0: Axis([slots], INPUT)})
            return out
        x = call.input
        last = x.rank - 1
        x = call.settle(x, range(1, last), f"{call!r} works along this axis")
        incoming = call.one_axis(x, last)
        call.bind(layer._embeddings, {1: Axis(incoming, INPUT, last)})
        table = layer._embeddings
        if not layer.tie_weights:
            table = layer.reverse_embeddings
            call.bind(table, {0: Axis(incoming, INPUT, last)})
        call.work(table, x.shape[1:last])
        return Labels(call.output_shape, why=f"{call!r} scores a vocabulary")

    def shrink(self, visit: Visit, kept: Kept) -> Any:
        # Not in config(), because forward and reverse calls have different inputs.
        layer = visit.operation
        config = layer.get_config()
        config["output_dim"] = kept.size(layer._embeddings, 1)
        return type(layer).from_config(config)
