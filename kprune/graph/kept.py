"""Indices, sizes and shapes that remain after channels are removed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import keras
import numpy as np

from kprune.graph.labels import Labels

if TYPE_CHECKING:
    from kprune.graph.channel_graph import ChannelGraph


class Kept:
    """The remaining positions of every axis, for one choice of channels.

    Args:
        counts: Integers of shape `(classes,)`: how often each channel occurs
            in the new model; 0 if it is removed.
        graph: The graph of the channels.
    """

    def __init__(self, counts: np.ndarray, graph: ChannelGraph) -> None:
        self._counts = counts
        self._graph = graph
        self._names: set[str] = set()

    def indices(self, labels: Sequence[np.ndarray]) -> np.ndarray | None:
        """Return the kept positions of an axis, or None if all are kept.

        Args:
            labels: 1-D label arrays of the axis.
        """
        if not labels:
            return None
        return _chosen(self._graph.project(labels, self._counts))

    def axis(self, variable: keras.Variable, axis: int) -> np.ndarray | None:
        """Return the kept positions of a variable's axis, or None if all are kept."""
        binding = self._graph.bindings.get(id(variable))
        if binding is None:
            return None
        known = binding.axes.get(axis % len(variable.shape))
        return None if known is None else self.indices(known.labels)

    def size(self, variable: keras.Variable, axis: int) -> int:
        """Return the number of kept positions of a variable's axis."""
        index = self.axis(variable, axis)
        return variable.shape[axis] if index is None else index.size

    def changed(self, variable: keras.Variable) -> bool:
        """Return whether any position of the variable is removed or repeated."""
        axes = range(len(variable.shape))
        return any(self.axis(variable, a) is not None for a in axes)

    def take(self, variable: keras.Variable, value: np.ndarray) -> np.ndarray:
        """Return the kept part of an array of the variable's shape."""
        for axis in range(len(variable.shape)):
            index = self.axis(variable, axis)
            if index is not None:
                value = value.take(index, axis=axis)
        return value

    def positions(self, labels: Labels, axis: int) -> np.ndarray | None:
        """Return the kept positions of a tensor's axis, or None if all are kept."""
        axis %= labels.rank
        counts = np.ones(1, dtype=int)
        for factor in labels.along(axis):
            # Solved classes vary along one axis at most.
            classes = self._graph.resolve(factor)
            if classes.shape[axis] > 1:
                counts = counts * self._counts[classes.ravel()]
        return _chosen(counts)

    def shape(self, labels: Labels) -> tuple[int | None, ...]:
        """Return the true shape of a tensor after removal."""
        shape = list(labels.shape)
        for axis in range(labels.rank):
            index = self.positions(labels, axis)
            if index is not None:
                shape[axis] = index.size
        return tuple(shape)

    def name(self, wish: str) -> str:
        """Return an unused name for an operation that is added to the new model.

        Args:
            wish: The name, which gets a number if it is taken.
        """
        self._names = self._names or set(self._graph.names)
        numbered = (f"{wish}_{n}" for n in itertools.count(1))
        name = next(
            n for n in itertools.chain([wish], numbered) if n not in self._names
        )
        self._names.add(name)
        return name


def _chosen(counts: np.ndarray) -> np.ndarray | None:
    """Return every position repeated `counts` times, or None if all counts are 1."""
    if (counts == 1).all():
        return None
    return np.repeat(np.arange(counts.size), counts)
