"""BatchNormalization layers between the producers and readers of channels."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any
from typing import NamedTuple

import keras

from kprune.graph import walk
from kprune.graph.call import FILTER
from kprune.graph.call import INPUT
from kprune.graph.channel_graph import ChannelGraph
from kprune.graph.group import Group
from kprune.graph.labels import Labels
from kprune.graph.record import Visit
from kprune.graph.registry import batch_norm_of


@dataclasses.dataclass
class Path:
    """The paths from a producer to the layers that read its channels.

    Args:
        norms: The first normalisation on each path, in order of execution.
        bare: Whether some path has no such layer.
    """

    norms: list[keras.layers.Layer] = dataclasses.field(default_factory=list)
    bare: bool = False


def norm_paths(graph: ChannelGraph) -> dict[int, Path]:
    """Follow the channels of all producers to their readers.

    Args:
        graph: The model's channel graph.

    Returns:
        `id(layer)` -> `Path`, for every layer that produces channels.
    """
    follower = _Follower(_with_role(graph, FILTER))
    functional = walk.require_functional(graph.model)
    for tensors in follower.follow(functional, [frozenset()]):
        follower.read(tensors)
    return follower.paths


class _Follower:
    """Tracks, for each tensor, the producers whose channels are not normalised."""

    def __init__(self, producers: set[int]) -> None:
        self.paths = {layer: Path() for layer in producers}

    def follow(
        self, functional: Any, given: Iterable[frozenset[int]]
    ) -> list[frozenset[int]]:
        # Inputs are not told apart: that can only turn more paths bare.
        entering = frozenset().union(*given)
        state = {id(t): entering for t in functional.inputs}
        for node in walk.nodes(functional):
            tensors = walk.tensors_of(
                node.arguments.args, node.arguments.kwargs
            )
            raw = [state[id(t)] for t in tensors]
            inner = walk.functional_of(node.operation)
            if inner is None:
                out = [self._pass(walk.unwrap(node.operation), raw)]
            else:
                out = self.follow(inner, raw)
            if len(out) != len(node.outputs):
                out = [frozenset().union(*out)] * len(node.outputs)
            for tensor, shown in zip(node.outputs, out, strict=True):
                state[id(tensor)] = shown
        return [state[id(t)] for t in functional.outputs]

    def _pass(
        self, operation: Any, raw: list[frozenset[int]]
    ) -> frozenset[int]:
        shown = frozenset().union(*raw)
        if batch_norm_of(operation):
            for layer in shown:
                if operation not in self.paths[layer].norms:
                    self.paths[layer].norms.append(operation)
            return frozenset()
        if id(operation) in self.paths:
            self.read(shown)
            return frozenset({id(operation)})
        return shown

    def read(self, shown: frozenset[int]) -> None:
        for layer in shown:
            self.paths[layer].bare = True


class Acting(NamedTuple):
    """The layers that determine how large channels are.

    Args:
        layers: `id(layer)` of each.
        passing: Those among them that produce channels from these channels alone, as
            a convolution with one group per channel does. Like a depthwise one, they
            pass on how large channels are.
    """

    layers: set[int]
    passing: set[int]


def acting_layers(graph: ChannelGraph, norms: bool = True) -> Acting:
    """Find the layers that determine how large channels are where they are read.

    These are the last producers and normalisations before the readers, and what
    passes channels on from there. Scaling a layer in front of a normalisation is no
    use, for its batch statistics undo that. Of a product, one factor counts, because
    both together would scale it twice: the one that is 0 where the channel is, or else
    as large as the product. So the gates of squeeze-and-excitation do not count.

    Args:
        graph: The model's channel graph.
        norms: Whether normalisations count. If not, they are passed.
    """
    finder = _Finder(graph, norms)
    functional = walk.require_functional(graph.model)
    finder.follow(functional, [True] * len(functional.outputs))
    return Acting(finder.found, finder.passing)


class _Finder:
    """Goes from the readers back to the layers that determine what they read."""

    def __init__(self, graph: ChannelGraph, norms: bool) -> None:
        self._graph = graph
        self._norms = norms
        self._readers = _with_role(graph, INPUT)
        self._producers = _with_role(graph, FILTER)
        self.found: set[int] = set()
        self.passing: set[int] = set()

    def follow(self, functional: Any, read: list[bool]) -> list[bool]:
        """Return which inputs of a model are read as they are, given the outputs."""
        state: dict[int, bool] = {}
        _mark(state, functional.outputs, read)
        for node in reversed(list(walk.nodes(functional))):
            out = [state.get(id(t), False) for t in node.outputs]
            inner = walk.functional_of(node.operation)
            if inner is None:
                tensors = walk.tensors_of(
                    node.arguments.args, node.arguments.kwargs
                )
                given = self._back(node, any(out), len(tensors))
            else:
                tensors = walk.inner_inputs(node, inner)
                pairs = walk.with_outputs(node, inner.outputs)
                wanted = [state.get(id(t), False) for t, _ in pairs]
                given = self.follow(inner, wanted)
            _mark(state, tensors, given)
        return [state.get(id(t), False) for t in functional.inputs]

    def _back(self, node: Any, read: bool, count: int) -> list[bool]:
        layer = walk.unwrap(node.operation)
        if read:
            self.found.add(id(layer))
        if id(layer) in self._readers:
            return [True] * count
        if not read or (self._norms and batch_norm_of(layer)):
            return [False] * count
        visit = self._graph.visits.get(id(node))
        if id(layer) in self._producers:
            if visit is None or not self._passes(visit):
                return [False] * count
            self.passing.add(id(layer))
        if visit is not None and getattr(visit.rule, "product", False):
            carried = self._carriers(visit.inputs, visit.outputs[0])
            if len(carried) == count:
                return carried
        return [True] * count

    def _passes(self, visit: Visit) -> bool:
        """Return whether the channels of the outputs are those of the inputs."""
        given, made = (
            {g.name for x in labels for g in self._prunable(x)}
            for labels in (visit.inputs, visit.outputs)
        )
        return bool(given & made)

    def _prunable(self, labels: Labels) -> list[Group]:
        groups = self._graph.groups_on(labels.factors)
        return [g for g in groups if g.pinned is None]

    def _carriers(self, factors: list[Labels], product: Labels) -> list[bool]:
        """Return which factors of a product are scaled, so that it is scaled once."""
        order = sorted(
            range(len(factors)),
            key=lambda n: (
                not factors[n].zero,
                factors[n].shape != product.shape,
            ),
        )
        carried = [False] * len(factors)
        scaled: set[str] = set()
        for n in order:
            names = {g.name for g in self._prunable(factors[n])}
            carried[n] = bool(names - scaled)
            scaled |= names
        return carried


def _mark(
    state: dict[int, bool], tensors: Iterable[Any], read: Iterable[bool]
) -> None:
    for tensor, one in zip(tensors, read, strict=True):
        state[id(tensor)] = state.get(id(tensor), False) or one


def _with_role(graph: ChannelGraph, role: str) -> set[int]:
    """Return `id(layer)` of the layers that have channels in a role."""
    return {
        id(binding.layer)
        for binding in graph.bindings.values()
        if any(a.role == role and a.labels for a in binding.axes.values())
    }
