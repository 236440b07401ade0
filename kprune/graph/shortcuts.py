"""Projections in the shortcuts of residual blocks."""

from __future__ import annotations

from typing import Any

import keras
from keras.src.ops.numpy import Add

from kprune.graph import walk


def projections(model: keras.Model) -> list[keras.layers.Layer]:
    """Return the 1x1 convolutions parallel to a block that end in the same sum.

    Args:
        model: A functional or Sequential model, plain or masked. Nested models
            are searched too.

    Returns:
        The layers, without wrappers.
    """
    found: list[keras.layers.Layer] = []
    stack = [walk.require_functional(model)]
    seen: set[int] = set()
    while stack:
        functional = stack.pop()
        if id(functional) in seen:
            continue
        seen.add(id(functional))
        nodes = list(walk.nodes(functional))
        makers = {id(t): node for node in nodes for t in node.outputs}
        for node in nodes:
            inner = walk.functional_of(node.operation)
            if inner is not None:
                stack.append(inner)
            elif isinstance(node.operation, keras.layers.Add | Add):
                found += _beside(_inputs(node), makers, nodes)
    return found


def _beside(
    branches: list[Any], makers: dict[int, Any], nodes: list[Any]
) -> list[Any]:
    """Return the projections among the branches of one sum."""
    found = []
    for number, tensor in enumerate(branches):
        node = _last_convolution(tensor, makers)
        if node is None or not _is_pointwise(node):
            continue
        (source,) = _inputs(node)
        blocks = _block_outputs(source, node, nodes)
        others = branches[:number] + branches[number + 1 :]
        if any(id(other) in blocks for other in others):
            found.append(walk.unwrap(node.operation))
    return found


def _inputs(node: Any) -> list[Any]:
    return walk.tensors_of(node.arguments.args, node.arguments.kwargs)


def _kernel_size(node: Any) -> tuple[int, ...] | None:
    """Return the kernel size of a convolution, or None for other calls."""
    return getattr(walk.unwrap(node.operation), "kernel_size", None)


def _is_pointwise(node: Any) -> bool:
    size = _kernel_size(node)
    return size is not None and all(n == 1 for n in size)


def _last_convolution(tensor: Any, makers: dict[int, Any]) -> Any:
    """Return the last convolution before a tensor, along calls with one input."""
    node = makers.get(id(tensor))
    while node is not None and len(_inputs(node)) == 1:
        if _kernel_size(node) is not None:
            return node
        node = makers.get(id(_inputs(node)[0]))
    return None


def _block_outputs(source: Any, projection: Any, nodes: list[Any]) -> set[int]:
    """Return the ids of the tensors that a block computes from `source`.

    A block has several convolutions in a row, or one larger than 1x1. Paths
    through `projection` do not count.
    """
    in_a_row = {id(source): 0}  # tensor -> most convolutions on a path to it
    behind_larger: set[int] = set()  # tensors after a convolution beyond 1x1
    for node in nodes:
        before = [id(t) for t in _inputs(node) if id(t) in in_a_row]
        if node is projection or not before:
            continue
        count = max(in_a_row[t] for t in before)
        larger = not behind_larger.isdisjoint(before)
        if _kernel_size(node) is not None:
            count += 1
            larger |= not _is_pointwise(node)
        for tensor in node.outputs:
            in_a_row[id(tensor)] = count
            if larger:
                behind_larger.add(id(tensor))
    return behind_larger | {t for t, count in in_a_row.items() if count > 1}
