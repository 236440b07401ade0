"""Turn a model into the boxes and edges of a drawing."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np

from kprune.graph import walk
from kprune.graph.channel_graph import ChannelGraph
from kprune.graph.labels import Labels

_NONE = -1
"""Stands for the origin of a constant."""


@dataclasses.dataclass(frozen=True)
class Box:
    """A call of a layer or operation, or an input of the model.

    Args:
        name: Name of the layer.
        path: Names of the nested models around it, outermost first.
        kind: Class of the layer.
        shape: Shape of its output.
        groups: Index of a group -> number of its channels in the output.
        writes: Whether the layer computes new channels of these groups.
    """

    name: str
    path: tuple[str, ...]
    kind: str
    shape: tuple[int | None, ...]
    groups: dict[int, int]
    writes: bool


def boxes_and_edges(
    model: keras.Model, graph: ChannelGraph
) -> tuple[list[Box], list[tuple[int, int]]]:
    """Return the calls of a model and of its nested models.

    Args:
        model: Functional or Sequential model.
        graph: Its channel graph.

    Returns:
        Boxes, and pairs `(from, to)` of their indices, where `from` is smaller.

    Example:

    ```python
    boxes, edges = boxes_and_edges(model, kprune.trace(model))
    ```
    """
    functional = walk.require_functional(model)
    boxes: list[Box] = []
    edges: dict[tuple[int, int], None] = {}
    written = _written(graph)
    origins = {}
    for tensor in functional.inputs:
        origins[id(tensor)] = len(boxes)
        name = walk.input_name(tensor)
        boxes.append(Box(name, (), "Input", tuple(tensor.shape), {}, False))

    def enter(
        functional: Any, origins: dict[int, int], path: tuple[str, ...]
    ) -> None:
        for node in walk.nodes(functional):
            inner = walk.functional_of(node.operation)
            if inner is not None:
                given = [
                    origins.get(id(x), _NONE)
                    for x in walk.inner_inputs(node, inner)
                ]
                within = {
                    id(t): o for t, o in zip(inner.inputs, given, strict=True)
                }
                enter(inner, within, (*path, node.operation.name))
                sources = [within[id(t)] for t in inner.outputs]
            else:
                number = len(boxes)
                boxes.append(_box(node, path, graph, written))
                for tensor in node.arguments.keras_tensors:
                    source = origins.get(id(tensor), _NONE)
                    if source != _NONE:
                        edges[source, number] = None
                sources = [number] * len(node.outputs)
            for tensor, source in zip(node.outputs, sources, strict=True):
                origins[id(tensor)] = source

    enter(functional, origins, ())
    return boxes, list(edges)


def _box(
    node: Any,
    path: tuple[str, ...],
    graph: ChannelGraph,
    written: dict[int, set[int]],
) -> Box:
    visit = graph.visits[id(node)]
    operation = visit.operation
    groups = _groups(graph, visit.outputs)
    return Box(
        operation.name,
        path,
        type(operation).__name__,
        tuple(node.outputs[0].shape),
        groups,
        not written.get(id(operation), set()).isdisjoint(groups),
    )


def _written(graph: ChannelGraph) -> dict[int, set[int]]:
    """Return id of a layer -> indices of the groups that it writes."""
    written: dict[int, set[int]] = {}
    for number, group in enumerate(graph.groups):
        for member in group.producers:
            written.setdefault(id(member.layer), set()).add(number)
    return written


def _groups(graph: ChannelGraph, outputs: list[Labels]) -> dict[int, int]:
    found: dict[int, int] = {}
    for labels in outputs:
        for factor in labels.factors:
            classes = np.unique(graph.resolve(factor))
            numbers = graph.group_of[classes]
            for number, count in zip(
                *np.unique(numbers[numbers >= 0], return_counts=True),
                strict=True,
            ):
                found[int(number)] = max(found.get(int(number), 0), int(count))
    return found
