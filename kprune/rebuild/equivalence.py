"""Test whether channels can be duplicated or merged exactly.

Duplicating a channel and splitting the weights of its readers changes nothing
if every operation in between treats channels alike and combines them by weights
only. This is tested, not looked up: each call of the model is run alone on
random inputs, once with copies and once with the copies masked. If the two runs
of every call agree, so do those of the model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from kprune.graph import walk
from kprune.graph.channel_graph import ChannelGraph
from kprune.graph.labels import Labels
from kprune.graph.likeness import close
from kprune.graph.record import Visit
from kprune.graph.values import read
from kprune.masking.wrapping import wrappers_by_layer
from kprune.rebuild.copies import CopyMap
from kprune.rebuild.copies import edited
from kprune.rebuild.copies import places
from kprune.rebuild.copies import split

SMALL_SIZE = OPEN_SIZE = 8
"""Size of axes of unknown size, and largest size of others in the first try."""

Maps = dict[str, CopyMap]


def inexact(
    masked: keras.Model, graph: ChannelGraph, maps: Maps
) -> dict[str, str]:
    """Find the groups whose channels cannot be duplicated or merged exactly.

    Args:
        masked: A model made by `kprune.wrap`. It is not changed.
        graph: `kprune.trace(masked)`.
        maps: Group name -> planned copies. All channels involved must be alive.

    Returns:
        Group name -> reason, for these groups only.
    """
    reasons = _across_channels(graph, maps)
    rest = {name: m for name, m in maps.items() if name not in reasons}
    return reasons | _Trial(masked, graph, rest).run() if rest else reasons


def _across_channels(graph: ChannelGraph, maps: Maps) -> dict[str, str]:
    """Return the groups whose channels a layer's rule says it computes across."""
    reasons = {}
    for entry in graph.mask_inputs:
        for group in graph.groups_on(entry.labels):
            if group.name in maps:
                reasons[group.name] = (
                    f"layer '{entry.layer.name}' computes across these channels"
                )
    return reasons


class _Trial:
    """Runs every call of a model with and without copies."""

    def __init__(self, masked: keras.Model, graph: ChannelGraph, maps: Maps):
        self._model = masked
        self._graph = graph
        self._maps = maps
        self._spots = places(graph, maps)
        self._wrappers = wrappers_by_layer(masked)

    def run(self) -> dict[str, str]:
        """Return why groups are inexact: group name -> reason."""
        reasons: dict[str, str] = {}
        for node in _nodes(self._model):
            visit = self._graph.visits.get(id(node))
            if visit is None:
                continue
            names = [n for n in self._touched(visit) if n not in reasons]
            if not names or self._holds(node, visit, names):
                continue
            alone = [n for n in names if not self._holds(node, visit, [n])]
            kind = type(visit.operation).__name__
            why = f"{kind} '{visit.operation.name}' does not treat copies alike"
            reasons |= dict.fromkeys(alone or names, why)
        return reasons

    def _touched(self, visit: Visit) -> list[str]:
        """Return the groups with channels on a call's tensors or weights."""
        arrays = [
            factor
            for labels in (*visit.inputs, *visit.outputs)
            for factor in labels.factors
        ]
        if isinstance(visit.operation, keras.layers.Layer):
            for variable in visit.operation.variables:
                binding = self._graph.bindings.get(id(variable))
                for axis in binding.axes.values() if binding else ():
                    arrays += axis.labels
        groups = self._graph.groups_on(arrays)
        return [group.name for group in groups if group.name in self._maps]

    def _holds(self, node: Any, visit: Visit, names: list[str]) -> bool:
        """Return whether copies in these groups leave the call's results the same."""
        donors = np.arange(int(self._graph.classes.max()) + 1)
        for name in names:
            classes = self._graph[name].classes
            donors[classes] = classes[self._maps[name].donors]
        state = self._duplicated(node.operation, names)
        wrapper = self._wrappers.get(id(visit.operation))
        for small in (True, False):
            call = _Call(node, visit, self._graph, donors, small)
            results = []
            for training in call.modes():
                ours = call.run(True, training, state)
                with self._masked(wrapper, donors):
                    theirs = call.run(False, training, [])
                results.append((ours, theirs))
            if all(call.fits(ours) for ours, _ in results):
                break
        return all(call.agree(ours, theirs) for ours, theirs in results)

    @contextlib.contextmanager
    def _masked(self, wrapper: Any, donors: np.ndarray) -> Iterator[None]:
        """Return a context in which one wrapper masks all copies."""
        stays = donors == np.arange(donors.size)
        before = []
        if wrapper is not None:
            for variable in wrapper.layer.weights:
                binding = self._graph.bindings.get(id(variable))
                for axis, bound in binding.axes.items() if binding else ():
                    mask = wrapper.axis_mask(variable, axis)
                    if mask is not None:
                        before.append((variable, axis, np.array(mask)))
                        kept = self._graph.project(bound.labels, stays)
                        wrapper.set_axis_mask(variable, axis, mask * kept)
        try:
            yield
        finally:
            for place in before:
                wrapper.set_axis_mask(*place)

    def _duplicated(self, operation: Any, names: list[str]) -> list[Any]:
        """Return `(variable, value)` pairs for the variables that copies change."""
        if not isinstance(operation, keras.layers.Layer):
            return []
        edit = split({name: self._maps[name] for name in names})
        state = []
        for variable in operation.variables:
            spots = self._spots.get(id(variable), [])
            spots = [spot for spot in spots if spot[0] in names]
            if spots:
                value = edited(read(variable), spots, edit)
                value = ops.convert_to_tensor(value, dtype=variable.dtype)
                state.append((variable, value))
        return state


def _nodes(model: Any) -> Iterator[Any]:
    """Yield all calls, including those in nested models."""
    for node in walk.nodes(walk.require_functional(model)):
        inner = walk.functional_of(node.operation)
        if inner is None:
            yield node
        else:
            yield from _nodes(inner)


class _Call:
    """One call on random inputs, with copies or with the copies masked.

    Args:
        node: The call.
        visit: The graph's record of it.
        graph: The graph.
        donors: Integers of shape `(classes,)`: the class each class is a copy
            of; itself for most.
        small: Whether to shrink axes without channels, which many calls allow.
    """

    def __init__(
        self,
        node: Any,
        visit: Visit,
        graph: ChannelGraph,
        donors: np.ndarray,
        small: bool,
    ):
        self._small = small
        # A wrapper passes `training` on to the layer inside.
        self._takes_training = getattr(
            visit.operation, "_call_has_training_arg", False
        )
        self._node = node
        self._visit = visit
        self._graph = graph
        self._donors = donors
        self._gone = donors != np.arange(donors.size)

    def modes(self) -> list[bool]:
        """Return the values of `training` to run; only False for random layers."""
        if not self._takes_training:
            return [False]
        random = any(
            isinstance(v, keras.Variable) and "seed_generator" in v.path
            for v in self._visit.operation.variables
        )
        return [False] if random else [False, True]

    def run(self, copies: bool, training: bool, state: list[Any]) -> Any:
        """Return the outputs as a list of arrays, or None if the call raises."""
        args, kwargs = self._node.arguments.fill_in(self._tensors(copies))
        operation = self._node.operation
        if self._takes_training:
            kwargs = {**kwargs, "training": training}
        try:
            with keras.StatelessScope(state_mapping=state):
                outputs = operation(*args, **kwargs)
        except (
            Exception
        ):  # User code may raise anything: then nothing is known.
            return None
        return [
            np.asarray(ops.convert_to_numpy(v))
            for v in keras.tree.flatten(outputs)
        ]

    def _tensors(self, copies: bool) -> dict[int, Any]:
        """Return a value for every tensor the call reads, always the same."""
        rng = np.random.default_rng(0)
        arguments = self._node.arguments
        labels = self._labels()
        values = {}
        for tensor in walk.tensors_of(arguments.args, arguments.kwargs):
            if id(tensor) in values:
                continue
            known = labels.get(id(tensor))
            value = _random(rng, tensor.dtype, self._shape(tensor, known))
            if known is not None:
                value = (
                    self._copied(value, known)
                    if copies
                    else self._emptied(value, known)
                )
            values[id(tensor)] = ops.convert_to_tensor(value, tensor.dtype)
        return values

    def _shape(self, tensor: Any, labels: Labels | None) -> list[int]:
        first, *rest = tensor.shape
        most = SMALL_SIZE if self._small else np.inf
        shape = [OPEN_SIZE if n is None else int(min(n, most)) for n in rest]
        if labels is not None:
            for axis, classes in self._axes(labels):
                if axis:
                    shape[axis - 1] = classes.size
        return [2 if first is None else first, *shape]

    def fits(self, outputs: Any) -> bool:
        """Return whether the outputs have the sizes that the graph expects."""
        if outputs is None:
            return False
        for value, labels in zip(outputs, self._visit.outputs, strict=True):
            labels = self._graph.resolve_labels(labels)
            for axis, classes in self._axes(labels):
                if value.shape[axis] != classes.size:
                    return False
        return True

    def _labels(self) -> dict[int, Labels]:
        """Return the labels of the tensors the call reads."""
        arguments = self._node.arguments
        kwargs = {k: v for k, v in arguments.kwargs.items() if k != "mask"}
        tensors = keras.tree.flatten((arguments.args, kwargs))
        found = keras.tree.flatten((self._visit.args, self._visit.kwargs))
        return {
            id(t): self._graph.resolve_labels(x)
            for t, x in zip(tensors, found, strict=True)
            if isinstance(x, Labels)
        }

    def _axes(self, labels: Labels) -> Iterator[tuple[int, np.ndarray]]:
        """Yield `(axis, classes)` of every labelled axis."""
        for factor in labels.factors:
            axes = [a for a, n in enumerate(factor.shape) if n > 1]
            if axes:
                yield axes[0], factor.ravel()

    def _copied(self, value: np.ndarray, labels: Labels) -> np.ndarray:
        """Return `value` with the positions of copies set to those of their donors."""
        for axis, classes in self._axes(labels):
            source = np.arange(classes.size)
            for copy in np.unique(classes[self._gone[classes]]):
                here = np.flatnonzero(classes == copy)
                source[here] = np.flatnonzero(classes == self._donors[copy])
            value = value.take(source, axis=axis)
        return value

    def _emptied(self, value: np.ndarray, labels: Labels) -> np.ndarray:
        """Return `value` with copies set to 0, or to 1 if they may differ from 0."""
        value = value.copy()
        for axis, classes in self._axes(labels):
            fill = 0 if labels.zero else 1
            np.moveaxis(value, axis, 0)[self._gone[classes]] = fill
        return value

    def agree(self, duplicated: Any, masked: Any) -> bool:
        """Return whether copies equal their donors and everything else is unchanged."""
        if not (self.fits(duplicated) and self.fits(masked)):
            return False
        for ours, theirs, labels in zip(
            duplicated, masked, self._visit.outputs, strict=True
        ):
            labels = self._graph.resolve_labels(labels)
            if not close(ours, self._copied(ours, labels)):
                return False
            for axis, classes in self._axes(labels):
                kept = np.flatnonzero(~self._gone[classes])
                ours, theirs = ours.take(kept, axis), theirs.take(kept, axis)
            if not close(ours, theirs):
                return False
        return True


def _random(
    rng: np.random.Generator, dtype: Any, shape: list[int]
) -> np.ndarray:
    kind = keras.backend.standardize_dtype(dtype)
    if kind == "bool":
        return np.ones(shape, dtype="bool")
    if "int" in kind:
        return rng.integers(0, 2, size=shape)
    return rng.normal(size=shape)
