"""rebuild(): build the compact plain model of a masked model."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from kprune.arguments import number
from kprune.graph import walk
from kprune.graph.channel_graph import ChannelGraph
from kprune.graph.kept import Kept
from kprune.graph.live import made_from
from kprune.graph.registry import copy_operation
from kprune.graph.tracer import trace
from kprune.graph.values import copy_traits
from kprune.graph.values import paired
from kprune.graph.values import read
from kprune.masking.clone import Cloner
from kprune.masking.compilation import Pairs
from kprune.masking.compilation import copy_compilation
from kprune.masking.devices import place_like
from kprune.masking.devices import placed_like
from kprune.masking.gating import require_no_gates
from kprune.masking.wrapping import masks
from kprune.masking.wrapping import require_masked
from kprune.masking.wrapping import wrappers_by_layer
from kprune.rebuild.clones import ROUNDING
from kprune.rebuild.clones import find_clones
from kprune.rebuild.copies import CopyMap
from kprune.rebuild.copies import edited
from kprune.rebuild.copies import merge as merge_clones
from kprune.rebuild.copies import places

MERGE = ROUNDING["float32"]
"""Largest difference of copies merged in training. See `rebuild`."""


def rebuild(
    masked: keras.Model, merge: float | str | None = "rounding"
) -> keras.Model:
    """Build the compact model that computes the same as a masked one.

    Removed channels are cut out of all variables, copies of a filter are merged,
    attenuation factors are folded into the weights, and the wrappers are
    removed. Layer names stay the same.

    Args:
        masked: A model made by `kprune.wrap`, `kprune.prune` or
            `kprune.duplicate`.
        merge: Largest difference between the weights of two channels that
            count as copies, relative to the largest weight of each variable.
            The default `"rounding"` merges copies that differ only by rounding:
            by up to 1e-6, or 4e-15 in float64. A larger value also merges
            copies that have diverged in training; they get their mean. None
            merges nothing.

    Returns:
        An ordinary functional `keras.Model`, which loads without kprune. If
        `masked` is compiled, so is the model, and its optimizer continues with
        the slots of `masked`, cut in the same way. On several devices it is
        placed like `masked`, as far as its sizes can be divided.

    Raises:
        ValueError: If the model has no filter masks, has active gates, or
            `merge` is negative.

    Example:

    ```python
    compact = kprune.rebuild(masked)
    compact.save("compact.keras")
    ```
    """
    require_masked(masked, "rebuild()")
    require_no_gates(masked, "rebuild()")
    graph = trace(masked)
    alive = {name: vector > 0 for name, vector in masks(masked, graph).items()}
    clones = _clones(masked, graph, alive, merge)
    for name, known in clones.items():
        alive[name] = alive[name] & ~known.replaced
    return resized(masked, graph, alive, clones)


def resized(
    masked: keras.Model,
    graph: ChannelGraph,
    counts: Mapping[str, np.ndarray],
    clones: dict[str, CopyMap],
) -> keras.Model:
    """Build the plain model in which each channel occurs a given number of times.

    Consumers read every occurrence of a repeated channel, so their weights must
    be split afterwards.

    Args:
        masked: A model made by `kprune.wrap`.
        graph: `kprune.trace(masked)`.
        counts: Group name -> booleans or integers of shape `(size,)`: how often
            each channel occurs. Groups left out keep all channels.
        clones: Group name -> copies to merge; `counts` is 0 for them.
    """
    kept = graph.kept(counts)
    shrinking = _Shrinking(graph, kept)
    cloner = Cloner(shrinking.make, shrinking.arguments, shrinking.input_shape)
    values = _Values(masked, graph, clones)
    with placed_like(masked):
        compact = cloner.clone(masked)
        pairs = _load_weights(masked, values, kept, cloner)
        copy_compilation(masked, compact, pairs, kept.take)
    return compact


def _clones(
    masked: keras.Model,
    graph: ChannelGraph,
    alive: dict[str, np.ndarray],
    merge: float | str | None,
) -> dict[str, CopyMap]:
    if merge is None:
        return {}
    if merge != "rounding":
        why = ", 'rounding', or None to merge nothing"
        number(merge, "rebuild()", "merge", least=0, why=why)
    return find_clones(masked, graph, alive, merge)


class _Shrinking:
    """Makes the layers of the compact model."""

    def __init__(self, graph: ChannelGraph, kept: Kept):
        self._visits = graph.visits
        self._nested = graph.nested
        self._graph = graph
        self._kept = kept

    def make(self, node: Any) -> Any:
        visit = self._visits[id(node)]
        if visit.rule is None:
            return copy_operation(visit.operation)
        return made_from(
            visit.operation, lambda: visit.rule.shrink(visit, self._kept)
        )

    def arguments(
        self, node: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
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


class _Values:
    """The effective weights of a masked model, before they are cut."""

    def __init__(
        self,
        masked: keras.Model,
        graph: ChannelGraph,
        clones: dict[str, CopyMap],
    ):
        self._wrappers = wrappers_by_layer(masked)
        self._spots = places(graph, clones)
        self._merge = merge_clones(clones)
        self.rules = {id(v.operation): v.rule for v in graph.visits.values()}

    def of(self, layer: Any) -> Iterator[tuple[keras.Variable, np.ndarray]]:
        """Yield the layer's variables with factors folded in and copies merged."""
        wrapper = self._wrappers.get(id(layer))
        number = {id(w): n for n, w in enumerate(layer.weights)}
        for variable in layer.variables:
            if wrapper is None or id(variable) not in number:
                value = read(variable)
            else:
                value = wrapper.folded(number[id(variable)])
            spots = self._spots.get(id(variable), [])
            yield variable, edited(value, spots, self._merge)


def _load_weights(
    masked: keras.Model, values: _Values, kept: Kept, cloner: Cloner
) -> Pairs:
    """Cut every variable and return pairs of old and new variables."""
    pairs = cloner.pairs
    for outer in walk.layers_of(masked):
        layer = walk.unwrap(outer)
        new = cloner.layers[id(outer)]
        found = {id(old): value for old, value in values.of(layer)}
        for old, target in paired(layer.variables, new.variables):
            value = kept.take(old, found[id(old)])
            if value.shape != tuple(target.shape):
                raise ValueError(
                    f"The rule of layer '{layer.name}' "
                    f"({type(layer).__name__}) gives '{old.name}' the shape "
                    f"{tuple(target.shape)}, but the kept channels need "
                    f"{value.shape}. The rule's config() must return a "
                    "configuration that matches."
                )
            place_like(old, target)
            # Copied, because a value that is not cut is a view. See copy_value.
            target.assign(np.array(value))
            copy_traits(old, target)
            pairs.append((old, target))
        rule = values.rules.get(id(layer))
        if rule is not None:
            rule.arrange(layer, new)
    return pairs
