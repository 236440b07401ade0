"""Moments of activations, computed from the parameters of batch normalisation."""

from __future__ import annotations

import abc
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any
from typing import NamedTuple

import numpy as np
from keras import ops
from scipy import special

from kprune.criteria.base import Criterion
from kprune.criteria.base import Scores
from kprune.criteria.base import by_length_elsewhere
from kprune.criteria.base import describe
from kprune.graph import walk
from kprune.graph.activations import describe_activation
from kprune.graph.registry import batch_norm_of

if TYPE_CHECKING:
    from kprune.graph import Group
    from kprune.session import Session

POINTS = np.linspace(-8.0, 8.0, 1001)
"""Points of the quadrature for activations without a closed form.

They are evenly spaced, because a Gauss-Hermite rule is inaccurate for functions
with a kink.
"""


class Moments(NamedTuple):
    """Moments of activations `z = f(a)` of normally distributed `a`.

    Args:
        size: `E|z|`, of shape `(n,)`.
        mean: `E[z]`, of shape `(n,)`.
        square: `E[z ** 2]`, of shape `(n,)`.
    """

    size: np.ndarray
    mean: np.ndarray
    square: np.ndarray


def moments(
    beta: np.ndarray, gamma: np.ndarray, function: Callable[[Any], Any]
) -> Moments:
    """Return the moments of `function(a)` for `a` from `N(beta, gamma ** 2)`.

    They are computed in closed form for linear functions, ReLU and leaky ReLU,
    also with an upper limit such as in ReLU6, and by quadrature for all others.

    Args:
        beta: Means, of shape `(n,)`.
        gamma: Standard deviations, of shape `(n,)`, of any sign.
        function: An elementwise function.
    """
    beta, gamma = np.asarray(beta, "float64"), np.abs(gamma).astype("float64")
    slope, ceiling = _call(function, [-1.0, 1e6])
    slope = -slope
    grid = np.linspace(-20.0, 20.0, 801)
    lines = np.minimum(np.where(grid > 0, grid, slope * grid), ceiling)
    if slope < 0 or not np.allclose(_call(function, grid), lines, atol=1e-5):
        return _by_quadrature(beta, gamma, function)
    up, up_square = _rectified(beta, gamma)
    down, down_square = _rectified(-beta, gamma)
    if ceiling < 1e6:
        over, over_square = _rectified(beta - ceiling, gamma)
        up = up - over
        up_square = up_square - over_square - 2.0 * ceiling * over
    return Moments(
        up + slope * down, up - slope * down, up_square + slope**2 * down_square
    )


def _rectified(
    beta: np.ndarray, gamma: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and mean square of `max(a, 0)` for `a` from `N(beta, gamma ** 2)`."""
    gamma = np.maximum(gamma, 1e-12)
    ratio = beta / gamma
    density = np.exp(-(ratio**2) / 2.0) / np.sqrt(2.0 * np.pi)
    share = special.ndtr(ratio)
    mean = gamma * density + beta * share
    square = (beta**2 + gamma**2) * share + beta * gamma * density
    return mean, square


def _by_quadrature(
    beta: np.ndarray, gamma: np.ndarray, function: Callable[[Any], Any]
) -> Moments:
    shares = np.exp(-(POINTS**2) / 2.0)
    shares /= shares.sum()
    values = _call(function, beta[:, None] + gamma[:, None] * POINTS)
    return Moments(np.abs(values) @ shares, values @ shares, values**2 @ shares)


def _call(function: Callable[[Any], Any], values: Any) -> np.ndarray:
    tensor = ops.convert_to_tensor(np.asarray(values, "float32"))
    return np.asarray(ops.convert_to_numpy(function(tensor)), "float64")


class GaussianCriterion(Criterion):
    """Base class of criteria based on moments from batch normalisation."""

    decides_by = ("weights",)

    @abc.abstractmethod
    def statistic(self, found: Moments) -> np.ndarray:
        """Return scores of shape `(size,)` of channels with these moments."""

    def check(self, session: Session | None) -> None:
        return None

    def scores(
        self, groups: Sequence[Group], session: Session | None
    ) -> Scores:
        if not groups:
            return {}
        functions = dict(activations(groups[0].graph.model))
        scores = {}
        for group in groups:
            seen = [
                self.statistic(moments(beta, gamma, functions[layer]))
                for layer, beta, gamma in _norms(group)
            ]
            if seen:
                scores[group.name] = np.mean(seen, axis=0)
        return by_length_elsewhere(
            scores, groups, describe(self), "no BatchNormalization"
        )


def _norms(group: Group) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield `(id(layer), offsets, scales)` of each batch normalisation."""
    parts: dict[int, dict[str, np.ndarray]] = {}
    for member in group.members:
        if batch_norm_of(member.layer):
            rows = member.matrix().astype("float64").mean(axis=1)
            parts.setdefault(id(member.layer), {})[member.name] = rows
    for layer, found in parts.items():
        yield (
            layer,
            found.get("beta", np.zeros(group.size)),
            found.get("gamma", np.ones(group.size)),
        )


def activations(model: Any) -> Iterator[tuple[int, Callable[[Any], Any]]]:
    """Yield `id(layer)` of each batch normalisation and the activation after it.

    The activation is composed of the elementwise layers that follow it, as long
    as each is the only reader; it is the identity if there are none, for example
    before a sum.

    Args:
        model: A functional or Sequential model, plain or masked.
    """
    functional = walk.require_functional(model)
    calls = list(walk.nodes(functional))
    readers: dict[int, list[Any]] = {}
    for node in calls:
        tensors = walk.tensors_of(node.arguments.args, node.arguments.kwargs)
        for tensor in tensors:
            readers.setdefault(id(tensor), []).append((node, len(tensors)))
    for node in calls:
        inner = walk.functional_of(node.operation)
        if inner is not None:
            yield from activations(inner)
        elif batch_norm_of(walk.unwrap(node.operation)):
            (output,) = node.outputs
            chain = list(_elementwise(output, readers))
            yield id(walk.unwrap(node.operation)), _composed(chain)


def _elementwise(
    tensor: Any, readers: dict[int, list[Any]]
) -> Iterator[Callable[[Any], Any]]:
    while len(readers.get(id(tensor), ())) == 1:
        ((node, operands),) = readers[id(tensor)]
        operation = walk.unwrap(node.operation)
        if operands != 1 or getattr(operation, "weights", None):
            return
        function = getattr(operation, "activation", operation.call)
        if not describe_activation(function, len(tensor.shape)).elementwise:
            return
        yield function
        (tensor,) = node.outputs


def _composed(chain: Sequence[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    def function(x: Any) -> Any:
        for each in chain:
            x = each(x)
        return x

    return function
