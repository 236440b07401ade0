"""BatchNormalization layers between the producers and readers of channels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any

import keras

from kprune.graph import walk
from kprune.graph.call import FILTER
from kprune.graph.channel_graph import ChannelGraph
from kprune.graph.registry import batch_norm_of
from kprune.graph.registry import is_batch_norm


@dataclasses.dataclass
class Path:
    """The paths from a producer to the layers that read its channels.

    Args:
        norms: The first normalisation on each path, in order of execution.
        bare: Whether some path has no such layer.
    """

    norms: list[keras.layers.Layer] = dataclasses.field(default_factory=list)
    bare: bool = False


def norm_paths(
    graph: ChannelGraph, counts: Callable[[Any], Any] = batch_norm_of
) -> dict[int, Path]:
    """Follow the channels of all producers to their readers.

    Args:
        graph: The model's channel graph.
        counts: Function that returns whether a layer is a normalisation that
            counts. Defaults to every BatchNormalization.

    Returns:
        `id(layer)` -> `Path`, for every layer that produces channels.
    """
    producers = {
        id(binding.layer)
        for binding in graph.bindings.values()
        if any(axis.role == FILTER for axis in binding.axes.values())
    }
    follower = _Follower(producers, counts)
    functional = walk.require_functional(graph.model)
    for tensors in follower.follow(functional, [frozenset()]):
        follower.read(tensors)
    return follower.paths


class _Follower:
    """Tracks, for each tensor, the producers whose channels are not normalised."""

    def __init__(
        self, producers: set[int], counts: Callable[[Any], Any]
    ) -> None:
        self._counts = counts
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
        if self._counts(operation):
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


def is_scaled_norm(layer: Any) -> bool:
    """Return whether a layer is a batch normalisation with a scale."""
    return is_batch_norm(layer) and layer.gamma is not None
