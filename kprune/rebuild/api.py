"""rebuild(): the compact plain model that a masked model stands for."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from kprune.graph import walk
from kprune.graph.channel_graph import ChannelGraph
from kprune.graph.kept import Kept
from kprune.graph.registry import copy_operation
from kprune.graph.tracer import trace
from kprune.graph.values import read
from kprune.masking.clone import Cloner
from kprune.masking.compilation import copy_compilation
from kprune.masking.filter_mask import FilterMask
from kprune.masking.wrapping import masks
from kprune.masking.wrapping import require_masked
from kprune.masking.wrapping import wrappers_by_layer
from kprune.rebuild.optimizer import copy_slots


def rebuild(masked: keras.Model) -> keras.Model:
    """Builds the small model that computes what the masked one computes.

    Removed channels are cut out of every variable they sit on, attenuation
    factors are folded into the weights, wrappers disappear, layer names stay.

    Args:
        masked: A model made by `kprune.wrap` or `kprune.prune`.

    Returns:
        An ordinary functional `keras.Model` that needs no kprune to be
        loaded. If `masked` is compiled, it is compiled alike, and the
        optimizer goes on with its slots, cut the same way.

    Raises:
        ValueError: If the model has no filter masks.

    Example:

    ```python
    compact = kprune.rebuild(masked)
    compact.save("compact.keras")
    ```
    """
    require_masked(masked)
    graph = trace(masked)
    alive = {name: vector > 0 for name, vector in masks(masked, graph).items()}
    kept = graph.kept(alive)
    shrinking = _Shrinking(graph, kept)
    cloner = Cloner(shrinking.make, shrinking.arguments, shrinking.input_shape)
    compact = cloner.clone(masked)
    pairs = _load_weights(masked, graph, kept, cloner)
    copy_compilation(masked, compact, optimizer_state=False)
    copy_slots(masked, compact, pairs, kept)
    return compact


class _Shrinking:
    """Makes the layers of the compact model."""

    def __init__(self, graph: ChannelGraph, kept: Kept):
        self._visits = graph.tracer.visits
        self._nested = graph.tracer.nested
        self._graph = graph
        self._kept = kept

    def make(self, node: Any) -> Any:
        visit = self._visits[id(node)]
        if visit.rule is None:
            return copy_operation(visit.operation)
        return visit.rule.shrink(visit, self._kept)

    def arguments(
        self, node: Any, args: tuple, kwargs: dict
    ) -> tuple[tuple, dict]:
        visit = self._visits[id(node)]
        if visit.rule is None:
            return args, kwargs
        return visit.rule.arguments(visit, self._kept, args, kwargs)

    def input_shape(
        self, functional: Any, index: int
    ) -> tuple[int | None, ...]:
        nested = self._nested.get(id(functional))
        if nested is None:
            return functional.inputs[index].shape
        return self._kept.shape(nested.inputs[index])


Pairs = dict[int, keras.Variable]


def _load_weights(
    masked: keras.Model, graph: ChannelGraph, kept: Kept, cloner: Cloner
) -> Pairs:
    """Cuts every variable; returns the new variable by `id(old variable)`."""
    wrappers = wrappers_by_layer(masked)
    rules = {id(v.operation): v.rule for v in graph.tracer.visits.values()}
    pairs: Pairs = {}
    for outer in walk.layers_of(masked):
        layer = walk.unwrap(outer)
        new = cloner.layers[id(outer)]
        wrapper = wrappers.get(id(layer))
        weights = {id(w): n for n, w in enumerate(layer.weights)}
        for old, target in zip(layer.variables, new.variables, strict=True):
            number = weights.get(id(old))
            value = _value(wrapper, number, old)
            value = kept.take(old, value)
            if value.shape != tuple(target.shape):
                raise ValueError(
                    f"Layer '{layer.name}' ({type(layer).__name__}): its rule "
                    f"made '{old.name}' of shape {tuple(target.shape)}, but "
                    f"{value.shape} is what the kept channels need. The rule's "
                    "config() must shrink the layer's configuration to match."
                )
            # A copy, for what is not cut is still a view (see copy_value).
            target.assign(np.array(value))
            pairs[id(old)] = target
        rule = rules.get(id(layer))
        if rule is not None:
            rule.arrange(layer, new)
    return pairs


def _value(
    wrapper: FilterMask | None, number: int | None, old: keras.Variable
) -> np.ndarray:
    if wrapper is None or number is None:
        return read(old)
    return wrapper.folded(number)
