"""Which layers are projections in the shortcuts of residual blocks."""

from __future__ import annotations

from typing import Any

import keras
from keras.src.ops.numpy import Add

from kprune.graph import walk


def projections(model: keras.Model) -> list[keras.layers.Layer]:
    """The 1x1 convolutions that run beside a block of more, into the same sum.

    Args:
        model: A functional or Sequential model, plain or masked; nested models
            are looked into.

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
    """The projections among the branches of one sum."""
    found = []
    for number, tensor in enumerate(branches):
        node = _last_convolution(tensor, makers)
        if node is None or _weight(node) != 1:
            continue
        (source,) = _inputs(node)
        others = branches[:number] + branches[number + 1 :]
        passed = _heaviest(source, node, nodes)
        if any(passed.get(id(other), 0) > 1 for other in others):
            found.append(walk.unwrap(node.operation))
    return found


def _inputs(node: Any) -> list[Any]:
    return walk.tensors_of(node.arguments.args, node.arguments.kwargs)


def _weight(node: Any) -> int:
    """0 for what is no convolution, 1 for a 1x1 convolution, 2 for others."""
    layer = walk.unwrap(node.operation)
    size = getattr(layer, "kernel_size", None)
    if size is None:
        return 0
    return 1 if all(n == 1 for n in size) else 2


def _last_convolution(tensor: Any, makers: dict[int, Any]) -> Any:
    """The call of the last convolution before a tensor, on a plain chain."""
    node = makers.get(id(tensor))
    while node is not None and len(_inputs(node)) == 1:
        if _weight(node):
            return node
        node = makers.get(id(_inputs(node)[0]))
    return None


def _heaviest(source: Any, skip: Any, nodes: list[Any]) -> dict[int, int]:
    """The most convolutions from `source` to each tensor, not through `skip`."""
    known = {id(source): 0}
    for node in nodes:
        if node is skip:
            continue
        before = [known[id(t)] for t in _inputs(node) if id(t) in known]
        for tensor in node.outputs if before else []:
            known.setdefault(id(tensor), max(before) + _weight(node))
    return known
