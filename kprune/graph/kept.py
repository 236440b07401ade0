"""Which channels live, as indices, sizes and shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import keras
import numpy as np

from kprune.graph.labels import Labels

if TYPE_CHECKING:
    from kprune.graph.channel_graph import ChannelGraph


class Kept:
    """Answers "what is left of this axis?" for one set of living channels.

    Args:
        alive: Boolean array over all classes.
        graph: The graph that knows classes and bindings.
    """

    def __init__(self, alive: np.ndarray, graph: ChannelGraph):
        self._alive = alive
        self._graph = graph

    def indices(self, labels: Sequence[np.ndarray]) -> np.ndarray | None:
        """Return the surviving positions of one axis, None if all survive."""
        if not labels:
            return None
        mask = self._graph.project(labels, self._alive)
        return None if mask.all() else np.flatnonzero(mask)

    def axis(self, variable: keras.Variable, axis: int) -> np.ndarray | None:
        """Return the surviving positions of a variable's axis, None if all survive."""
        binding = self._graph.bindings.get(id(variable))
        if binding is None:
            return None
        known = binding.axes.get(axis % len(variable.shape))
        return None if known is None else self.indices(known.labels)

    def size(self, variable: keras.Variable, axis: int) -> int:
        """Return how many positions of a variable's axis survive."""
        index = self.axis(variable, axis)
        return variable.shape[axis] if index is None else index.size

    def changed(self, variable: keras.Variable) -> bool:
        """Return whether any position of the variable is removed."""
        axes = range(len(variable.shape))
        return any(self.axis(variable, a) is not None for a in axes)

    def take(self, variable: keras.Variable, value: np.ndarray) -> np.ndarray:
        """Cut an array shaped like `variable` down to what survives."""
        for axis in range(len(variable.shape)):
            index = self.axis(variable, axis)
            if index is not None:
                value = value.take(index, axis=axis)
        return value

    def positions(self, labels: Labels, axis: int) -> np.ndarray | None:
        """Return the surviving positions of a tensor's axis, None if all survive."""
        axis %= labels.rank
        mask: np.ndarray | None = None
        for factor in labels.along(axis):
            # Solved classes vary along one axis at most.
            classes = self._graph.resolve(factor)
            if classes.shape[axis] > 1:
                alive = self._alive[classes.ravel()]
                mask = alive if mask is None else mask & alive
        return None if mask is None or mask.all() else np.flatnonzero(mask)

    def shape(self, labels: Labels) -> tuple[int | None, ...]:
        """Return the true shape of a tensor after removal."""
        shape = list(labels.shape)
        for axis in range(labels.rank):
            index = self.positions(labels, axis)
            if index is not None:
                shape[axis] = index.size
        return tuple(shape)
