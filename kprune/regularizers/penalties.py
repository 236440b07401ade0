"""Penalties on groups of kernels of a layer.

A penalty is a function `f(absolute, squared) -> scalar` of two matrices of shape
`(groups, kernels)`: the sums of absolute and of squared weights of each kernel (the
kh x kw weights between one input and one output channel). Formulas: Mitsuno, Miyao and
Kurita, arXiv 2004.04394.
"""

from __future__ import annotations

import types
from typing import Any

from keras import ops

from kprune.registry import Registry

EPSILON = 1e-12
"""Added under roots, whose gradient at 0 is infinite."""

_registry = Registry("penalty", types.FunctionType, lambda function: function)
register = _registry.register


def get(name: str) -> Any:
    """Return the penalty registered under a name.

    Raises:
        ValueError: If the name is unknown. The message lists the known ones.
    """
    return _registry.get(name)


def names() -> list[str]:
    """Return the names of all penalties."""
    return _registry.names


def root(x: Any) -> Any:
    """Return a square root that is 0 at 0 and has a finite gradient there."""
    return ops.sqrt(x + EPSILON) - EPSILON**0.5


def _within(x: Any) -> Any:
    """Sum over the kernels of each group."""
    return ops.sum(x, axis=1)


@register("l1")
def l1(absolute: Any, squared: Any) -> Any:
    """Sum of absolute weights; no groups."""
    return ops.sum(absolute)


@register("group_lasso")
def group_lasso(absolute: Any, squared: Any) -> Any:
    """Sum of the groups' Euclidean lengths."""
    return ops.sum(root(_within(squared)))


@register("hierarchical_sqrt_group_lasso")
def hierarchical_sqrt_group_lasso(absolute: Any, squared: Any) -> Any:
    """Sum of the roots of the groups' summed kernel lengths."""
    return ops.sum(root(_within(root(squared))))


@register("hierarchical_squared_group_lasso")
def hierarchical_squared_group_lasso(absolute: Any, squared: Any) -> Any:
    """Sum of the squares of the groups' summed kernel lengths."""
    return ops.sum(ops.square(_within(root(squared))))


@register("exclusive_sparsity")
def exclusive_sparsity(absolute: Any, squared: Any) -> Any:
    """Sum of the squares of the groups' summed absolute weights."""
    return ops.sum(ops.square(_within(absolute)))


@register("hierarchical_sqrt_exclusive_sparsity")
def hierarchical_sqrt_exclusive_sparsity(absolute: Any, squared: Any) -> Any:
    """Sum of the roots of the groups' summed squares of kernels' L1 norms."""
    return ops.sum(root(_within(ops.square(absolute))))


@register("hierarchical_squared_exclusive_sparsity")
def hierarchical_squared_exclusive_sparsity(absolute: Any, squared: Any) -> Any:
    """Sum of the squares of the groups' summed squares of kernels' L1 norms."""
    return ops.sum(ops.square(_within(ops.square(absolute))))


@register("group_l1_2")
def group_l1_2(absolute: Any, squared: Any) -> Any:
    """Sum of the roots of the groups' summed absolute weights."""
    return ops.sum(root(_within(absolute)))


@register("hierarchical_sqrt_group_l1_2")
def hierarchical_sqrt_group_l1_2(absolute: Any, squared: Any) -> Any:
    """Sum of the roots of the groups' summed roots of kernels' L1 norms."""
    return ops.sum(root(_within(root(absolute))))


@register("hierarchical_squared_group_l1_2")
def hierarchical_squared_group_l1_2(absolute: Any, squared: Any) -> Any:
    """Sum of the squares of the groups' summed roots of kernels' L1 norms."""
    return ops.sum(ops.square(_within(root(absolute))))
