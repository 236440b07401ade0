"""wrap(), masks() and set_masks()."""

from __future__ import annotations

import difflib
import inspect
import logging
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from kprune.arguments import model as check_model
from kprune.graph import walk
from kprune.graph.call import FILTER
from kprune.graph.call import STATISTIC
from kprune.graph.channel_graph import ChannelGraph
from kprune.graph.channel_graph import Group
from kprune.graph.registry import copy_operation
from kprune.graph.registry import find_rule
from kprune.graph.tracer import trace
from kprune.graph.values import copy_traits
from kprune.graph.values import copy_value
from kprune.graph.values import paired
from kprune.masking.clone import Cloner
from kprune.masking.compilation import copy_compilation
from kprune.masking.devices import place_like
from kprune.masking.devices import placed_like
from kprune.masking.filter_mask import FilterMask
from kprune.masking.places import mask_places
from kprune.masking.verification import require_same_outputs

logger = logging.getLogger("kprune")


def wrap(model: keras.Model, skip: Iterable[Any] | None = None) -> keras.Model:
    """Copy a model so that its filters can be masked while it trains.

    Every layer with removable channels is wrapped in a `FilterMask` of the same
    name, also in nested models. All masks start at 1, so the outputs are those
    of `model`. If `model` is compiled, so is the copy, with the same optimizer
    state. On several devices the copy is placed like `model`.

    A model of your own class keeps its attributes and its training behaviour.
    If the class overrides `call` or its constructor arguments, a saved copy
    loads as a plain functional model. A weight that two layers share is copied
    for each, with a warning.

    Args:
        model: A built `keras.Model`: functional, Sequential, or subclassed
            with a `call` of layers and `keras.ops`.
        skip: Layers, nested models, or names of either, whose channels must
            stay.

    Returns:
        A new model with its own weights. `model` is not changed.

    Raises:
        ValueError: If no channel can be removed (the message lists the reasons),
            if the model is wrapped already, or if the copy of a layer computes
            something else than the layer. The latter is checked by running both
            models on one random sample, with images and sequences cut to 64
            positions if the model accepts that.
        TypeError: If the model is not functional and cannot be read as such.

    Example:

    ```python
    masked = kprune.wrap(model, skip=["stem"])
    masked.compile("adam", "categorical_crossentropy")
    masked.fit(x, y, callbacks=[kprune.callbacks.PruneCallback()])
    ```
    """
    if is_masked(model, "wrap()"):
        raise ValueError(
            f"Model '{model.name}' is wrapped already: use it as it is, or call "
            "kprune.rebuild(model) first to prune its compact version further."
        )
    graph = trace(model, skip)
    require_prunable(graph)
    _tell_of_shared_weights(model)
    with placed_like(model):
        return _wrapped(model, graph)


def _tell_of_shared_weights(model: keras.Model) -> None:
    """Warn of weights that several layers share, which their copies will not."""
    owners: dict[int, Any] = {}
    for layer in walk.layers_of(model):
        for weight in layer.weights:
            other = owners.setdefault(id(weight), layer)
            if other is not layer:
                logger.warning(
                    "Layers '%s' and '%s' of model '%s' will no longer share "
                    "weight '%s': each copy gets its own. To keep it shared, let "
                    "one layer compute with it and call that layer twice, such "
                    "as keras.layers.ReversibleEmbedding for a head tied to an "
                    "embedding.",
                    other.name,
                    layer.name,
                    model.name,
                    weight.path,
                )


def _wrapped(model: keras.Model, graph: ChannelGraph) -> keras.Model:
    cloner = Cloner(
        _Wrapping(graph).make,
        _positional,
        lambda functional, index: functional.inputs[index].shape,
    )
    masked = cloner.clone(model)
    pairs = cloner.pairs
    for old in walk.layers_of(model):
        new = walk.unwrap(cloner.layers[id(old)])
        for source, target in paired(old.variables, new.variables):
            place_like(source, target)
            copy_value(source, target)
            copy_traits(source, target)
            pairs.append((source, target))
        rule = find_rule(old)
        if rule is not None:
            rule.arrange(old, new)
    require_same_outputs(model, masked, cloner.tensors)
    copy_compilation(model, masked, pairs)
    return masked


def _positional(
    node: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Pass the first argument by position, because the wrapper renames it."""
    operation = walk.unwrap(node.operation)
    if args or not isinstance(operation, keras.layers.Layer):
        return args, kwargs
    first = next(iter(inspect.signature(operation.call).parameters))
    if first not in kwargs:
        return args, kwargs
    return (kwargs[first],), {k: v for k, v in kwargs.items() if k != first}


def require_prunable(graph: ChannelGraph) -> None:
    """Raise a `ValueError` with the reasons if no channel can be removed."""
    if graph.prunable:
        return
    reasons = "\n".join(
        f"  {g.name} ({g.size} channels): {g.pinned}" for g in graph.groups
    )
    raise ValueError(
        f"Model '{graph.model.name}' has no channel that can be removed.\n"
        f"{reasons or '  It has no layer that produces channels.'}\n"
        "To fix this, register rules for unknown layers with "
        "@kprune.register_rule, remove layers from skip=, or replace Lambda "
        "layers by keras.ops calls."
    )


class _Wrapping:
    """Makes the layers of the wrapped model."""

    def __init__(self, graph: ChannelGraph):
        # `id(layer)` -> `(id(variable), axis, role)` of every masked axis.
        self._axes: dict[int, list[tuple[int, int, str]]] = {}
        for binding in graph.bindings.values():
            for axis, bound in binding.axes.items():
                if bound.role == STATISTIC:
                    continue
                if _any_prunable(graph, bound.labels):
                    place = (id(binding.variable), axis, bound.role)
                    self._axes.setdefault(id(binding.layer), []).append(place)
        # `id(layer)` -> lengths of the masks that the layer computes with, by name.
        self._tensors: dict[int, dict[str, int]] = {}
        for entry in graph.mask_inputs:
            if _any_prunable(graph, entry.labels):
                sizes = self._tensors.setdefault(id(entry.layer), {})
                sizes[entry.name] = int(entry.labels[0].size)

    def make(self, node: Any) -> Any:
        operation = node.operation
        new = copy_operation(operation)
        places = self._axes.get(id(operation), [])
        tensors = self._tensors.get(id(operation), {})
        if not places and not tensors:
            return new
        number = {id(w): n for n, w in enumerate(operation.weights)}
        axes = [(number[v], a) for v, a, _ in places]
        filters = [(number[v], a) for v, a, role in places if role == FILTER]
        wrapper = FilterMask(new, axes, filters, tensors)
        wrapper.build_from_config({"layer": operation.get_build_config()})
        return wrapper


def _any_prunable(graph: ChannelGraph, labels: list[np.ndarray]) -> bool:
    """Return whether any channel on an axis can be removed."""
    return any(group.pinned is None for group in graph.groups_on(labels))


def filter_masks(model: keras.Model) -> list[FilterMask]:
    """Return all `FilterMask` wrappers of a model, nested models included."""
    return [x for x in walk.layers_of(model) if isinstance(x, FilterMask)]


def is_masked(model: keras.Model, owner: str = "is_masked()") -> bool:
    """Return whether a model holds `FilterMask` wrappers.

    Args:
        model: A `keras.Model`.
        owner: The function that received it, for messages.
    """
    check_model(model, owner)
    return any(
        isinstance(layer, FilterMask)
        for layer in model._flatten_layers(include_self=False)
    )


def require_masked(model: Any, owner: str = "kprune") -> None:
    """Raise an error that says how to wrap, if `model` is not wrapped.

    Args:
        model: The argument to check.
        owner: The function that received it, for messages.
    """
    if not is_masked(model, owner):
        raise ValueError(
            f"Model '{model.name}' has no filter masks. Wrap it first: "
            "masked = kprune.wrap(model), then compile and fit `masked`."
        )


def trained_part(model: keras.Model) -> keras.Model:
    """Return a Distiller's student, or else the model itself."""
    distiller = isinstance(model, keras.distillation.Distiller)
    return model.student if distiller else model


def wrappers_by_layer(model: keras.Model) -> dict[int, FilterMask]:
    """Return the wrappers by the id of their inner layer."""
    return {id(w.layer): w for w in filter_masks(model)}


def masks(
    masked: keras.Model, graph: ChannelGraph | None = None
) -> dict[str, np.ndarray]:
    """Return the masks of all prunable groups.

    Args:
        masked: A model made by `kprune.wrap` or `kprune.prune`.
        graph: `kprune.trace(masked)`, if you have it already.

    Returns:
        Group name -> float vector of shape `(group.size,)`: 0 for removed
        channels, 1 for kept ones, values in between for attenuated ones. It can
        be stored and passed to `set_masks` for any wrapped copy of the model.
    """
    require_masked(masked, "masks()")
    graph = graph or trace(masked)
    wrappers = wrappers_by_layer(masked)
    return {g.name: group_vector(g, wrappers) for g in graph.prunable}


def group_vector(group: Group, wrappers: dict[int, FilterMask]) -> np.ndarray:
    """Return the mask of one group, of shape `(size,)`, read at one of its members."""
    vector = np.ones(group.size, dtype="float32")
    for member in group.members:
        if member.role == STATISTIC:
            continue
        wrapper = wrappers[id(member.layer)]
        mask = wrapper.axis_mask(member.variable, member.axis)
        if mask is None:
            continue
        vector = mask[member.index].max(axis=1)
        break
    for member in group.producers:
        wrapper = wrappers[id(member.layer)]
        factor = wrapper.axis_factor(member.variable, member.axis)
        if factor is not None:
            return vector * factor[member.index].max(axis=1)
    return vector


def set_masks(
    masked: keras.Model,
    masks: Mapping[str, Any],
    graph: ChannelGraph | None = None,
) -> None:
    """Set the masks of the named groups.

    Outputs are then those of the compact model, but penalties are not: weights
    behind masks keep their values, and weight penalties count them, unless they
    are set to 0, as `kprune.prune` and the callbacks do. Activity penalties count
    the activation of 0 at removed channels.

    Args:
        masked: A model made by `kprune.wrap`.
        masks: Group name -> vector of shape `(group.size,)`: 0 for removed
            channels, 1 for kept ones, values in between for attenuated ones.
            Groups left out keep their masks.
        graph: `kprune.trace(masked)`, if you have it already.

    Raises:
        ValueError: If a name is not a prunable group, a vector has the wrong
            shape or values, or a group would keep no channel at all.
    """
    require_masked(masked, "set_masks()")
    graph = graph or trace(masked)
    vectors = {
        name: check_vector(graph, name, value) for name, value in masks.items()
    }
    current = {**_current(masked, graph), **vectors}
    _write(masked, graph, current)


def _current(masked: keras.Model, graph: ChannelGraph) -> dict[str, np.ndarray]:
    wrappers = wrappers_by_layer(masked)
    return {g.name: group_vector(g, wrappers) for g in graph.prunable}


def check_vector(graph: ChannelGraph, name: str, value: Any) -> np.ndarray:
    """Return a group's mask as float32 after checking name, shape and values."""
    prunable = {g.name: g for g in graph.prunable}
    if name not in prunable:
        if name in graph:
            why = f"it cannot be pruned: {graph[name].pinned}"
        else:
            close = difflib.get_close_matches(name, prunable, n=3)
            why = f"there is no such group. Close names: {close or list(prunable)}"
        raise ValueError(f"Masks were given for group '{name}', but {why}.")
    vector = np.asarray(value, dtype="float32")
    size = prunable[name].size
    if vector.shape != (size,):
        raise ValueError(
            f"The mask of group '{name}' must have shape ({size},). Received "
            f"shape {vector.shape}."
        )
    if not ((vector >= 0) & (vector <= 1)).all():
        raise ValueError(
            f"The mask of group '{name}' must lie between 0 (removed) and 1 "
            f"(kept). Received {vector}."
        )
    if not vector.any():
        raise ValueError(
            f"The mask of group '{name}' removes all {size} channels, which "
            "would leave a layer without outputs. Keep at least one."
        )
    return vector


def _write(
    masked: keras.Model, graph: ChannelGraph, vectors: dict[str, np.ndarray]
) -> None:
    """Set the masks and factors of all wrappers."""
    # All three have shape (classes,).
    values = graph.spread(vectors)  # from 0 (removed) to 1 (kept)
    alive = (values > 0).astype("float32")  # 0 or 1
    factors = np.where(values > 0, values, 1.0)  # never 0
    for place in mask_places(graph, wrappers_by_layer(masked)):
        place.write(graph.project(place.labels, alive))
        if place.write_factor is not None:
            place.write_factor(graph.project(place.labels, factors))
