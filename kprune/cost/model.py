"""Costs as functions of the kept channels of each group."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kprune.cost.evaluator import Evaluator
from kprune.cost.evaluator import parted
from kprune.graph.channel_graph import ChannelGraph
from kprune.graph.channel_graph import Group

TERMS = ("macs", "params")
"""Costs that are sums of products of axis lengths."""


class Terms:
    """A sum of products of axis lengths, each length linear in kept counts.

    Every term is `coefficient x length(axis 1) x length(axis 2) x ...`, and
    an axis keeps `constant + sum over groups (multiplicity x kept channels)`
    positions. Nothing is built to evaluate it.
    """

    def __init__(self, axes: AxisTable):
        self._axes = axes
        self._coefficients: list[float] = []
        self._rows: list[list[int]] = []
        self.owners: list[Any] = []
        self._touched: dict[int, tuple[np.ndarray, ...]] = {}

    def add(self, owner: Any, coefficient: float, axes: list[int]) -> None:
        self._coefficients.append(coefficient)
        self._rows.append(axes)
        self.owners.append(owner)

    def freeze(self) -> None:
        width = max((len(r) for r in self._rows), default=0)
        one = self._axes.one
        rows = [r + [one] * (width - len(r)) for r in self._rows]
        self._table = np.array(rows, dtype=int).reshape(len(rows), width)
        self._values = np.array(self._coefficients)

    @property
    def products(self) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients of shape `(terms,)`, and axis indices of shape `(terms, n)`."""
        return self._values, self._table

    def each(self, lengths: np.ndarray) -> np.ndarray:
        """Return the value of every term, of shape `(..., terms)`."""
        return self._values * lengths[..., self._table].prod(axis=-1)

    def total(self, lengths: np.ndarray) -> np.ndarray:
        return self.each(lengths).sum(axis=-1)

    def saved(
        self, lengths: np.ndarray, group: int, fewer: np.ndarray
    ) -> np.ndarray:
        """Return the decrease of the sum when a group keeps fewer channels.

        Only the terms that depend on the group are evaluated.

        Args:
            lengths: Current lengths of all axes, of shape `(axes,)`.
            group: Index of the group.
            fewer: Numbers of removed channels, of shape `(n,)`.
        """
        if group not in self._touched:
            slopes = self._axes.functions[1][group]
            terms = (slopes[self._table] != 0).any(axis=1)
            axes = self._table[terms]  # (terms, axes of a term)
            self._touched[group] = axes, slopes[axes], self._values[terms]
        axes, slopes, values = self._touched[group]
        now = lengths[axes]
        then = now - fewer[:, None, None] * slopes
        return (now.prod(axis=-1) - then.prod(axis=-1)) @ values

    def together(self, count: int) -> np.ndarray:
        """Return booleans of shape `(axes, axes)`: whether a term multiplies both axes.

        Args:
            count: Number of axes.
        """
        found = np.zeros((count, count), dtype=bool)
        for one, other in itertools.permutations(self._table.T, 2):
            found[one, other] = True
        return found


# A sum of products of axis lengths: `(coefficient, axis indices)` of each.
Products = list[tuple[float, list[int]]]

FIXED = -1
"""Marks positions of an axis that always stay."""


class AxisTable:
    """Lengths of all labelled axes as linear functions of kept counts.

    Args:
        graph: A `ChannelGraph`.
        groups: The groups whose counts vary; channels of others stay.
    """

    def __init__(self, graph: ChannelGraph, groups: Sequence[Group]):
        self._graph = graph
        self._groups = groups
        # Maps a group's index in the graph to its index in `groups`. Positions of no
        # group have index -1, the last entry.
        self._place = np.full(len(graph.groups) + 1, FIXED)
        for place, group in enumerate(groups):
            self._place[graph.group_of[group.classes[0]]] = place
        self._rows: list[tuple[float, dict[int, float]]] = []
        self._known: dict[int, int] = {}
        self._singles: dict[int, int] = {}
        self._keep: list[np.ndarray] = []
        self.one = self._append(1.0, {})

    def _append(self, constant: float, slopes: dict[int, float]) -> int:
        self._rows.append((constant, slopes))
        return len(self._rows) - 1

    def axis(self, labels: np.ndarray) -> int:
        """Return the index of the axis with these 1-D labels."""
        known = self._known.get(id(labels))
        if known is None:
            places = self._places(labels)
            fixed = np.count_nonzero(places == FIXED)
            slopes = {}
            for place in np.unique(places[places != FIXED]):
                # Every channel of a group occurs on an axis equally often.
                positions = np.count_nonzero(places == place)
                slopes[int(place)] = positions / self._groups[place].size
            known = self._known[id(labels)] = self._append(float(fixed), slopes)
            self._keep.append(labels)
        return known

    def _places(self, labels: np.ndarray) -> np.ndarray:
        """Return the group of each position, or `FIXED`, of shape `(length,)`."""
        return self._place[self._graph.group_of[self._graph.classes[labels]]]

    def sum_of_products(self, lists: list[np.ndarray], size: int) -> Products:
        """Return the length of an axis, which may have several label arrays.

        Two label arrays on one axis come from flattening two axes. Positions whose
        channels are of the same groups are all pairs of their channels, so that the
        kept share of them is the product of both shares.
        """
        if not lists:
            return [(float(size), [])]
        if len(lists) == 1:
            return [(1.0, [self.axis(lists[0])])]
        places = np.stack([self._places(labels) for labels in lists])
        kinds, counts = np.unique(places, axis=1, return_counts=True)
        products: Products = []
        for kind, count in zip(kinds.T.tolist(), counts, strict=True):
            groups = [place for place in kind if place != FIXED]
            whole = math.prod(self._groups[place].size for place in groups)
            numbers = [self._alone(place) for place in groups]
            products.append((float(count / whole), numbers))
        return products

    def _alone(self, place: int) -> int:
        """Return the index of an axis of one group's channels, each once."""
        if place not in self._singles:
            self._singles[place] = self._append(0.0, {place: 1.0})
        return self._singles[place]

    def freeze(self) -> None:
        count = len(self._groups)
        self._constants = np.array([c for c, _ in self._rows])
        self._slopes = np.zeros((count, len(self._rows)))
        for n, (_, slopes) in enumerate(self._rows):
            for group, slope in slopes.items():
                self._slopes[group, n] = slope

    @property
    def functions(self) -> tuple[np.ndarray, np.ndarray]:
        """Constants of shape `(axes,)` and slopes of shape `(groups, axes)`."""
        return self._constants, self._slopes

    def lengths(self, kept: np.ndarray) -> np.ndarray:
        """Return the lengths of all axes for kept counts of shape `(..., groups)`."""
        return self._constants + np.asarray(kept, dtype=float) @ self._slopes


class CostModel(Evaluator):
    """MACs and parameters of the compact model, without building it.

    MACs (multiply-accumulates) are counted per sample for convolutions, dense and other
    layers with kernels; unknown spatial sizes count as 1. Parameters are all weights,
    including non-trainable ones, without masks.

    Args:
        graph: A `ChannelGraph`.
        groups: The groups whose kept counts vary. Defaults to `graph.prunable`.

    Example:

    ```python
    costs = CostModel(kprune.trace(model))
    half = costs.sizes // 2
    costs.evaluate(half)["macs"] / costs.full["macs"]
    ```
    """

    def __init__(
        self, graph: ChannelGraph, groups: Sequence[Group] | None = None
    ):
        groups = graph.prunable if groups is None else groups
        self.graph = graph
        self.sizes = np.array([g.size for g in groups], dtype=int)
        self._axes = AxisTable(graph, groups)
        self.macs = Terms(self._axes)
        self.params = Terms(self._axes)
        self._bytes_per_term: list[int] = []
        self._add_params()
        self._add_macs()
        self._axes.freeze()
        self.macs.freeze()
        self.params.freeze()
        self.itemsizes = np.array(self._bytes_per_term)

    def _size(self, variable: keras.Variable | None) -> list[Products]:
        """Return the lengths of a variable's axes; none if it is None."""
        if variable is None:
            return []
        binding = self.graph.bindings.get(id(variable))
        lengths = []
        for axis, size in enumerate(variable.shape):
            bound = None if binding is None else binding.axes.get(axis)
            labels = [] if bound is None else bound.labels
            lengths.append(self._axes.sum_of_products(labels, size))
        return lengths

    def _add_params(self) -> None:
        for layer in unique_layers(self.graph):
            for weight in layer.weights:
                for coefficient, numbers in multiplied(self._size(weight)):
                    self.params.add(layer, coefficient, numbers)
                    self._bytes_per_term.append(itemsize(weight.dtype))

    def _add_macs(self) -> None:
        for work in self.graph.work:
            lengths = self._size(work.variable)
            for labels in work.axes:
                size = labels[0].size
                lengths.append(self._axes.sum_of_products(labels, size))
            for coefficient, numbers in multiplied(lengths):
                self.macs.add(work.layer, coefficient * work.count, numbers)

    def lengths(self, kept: Any) -> np.ndarray:
        return self._axes.lengths(kept)

    def axis_functions(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the lengths of labelled axes as linear functions of kept counts.

        Returns:
            Constants of shape `(axes,)` and slopes of shape `(groups, axes)`: the
            length of an axis is `constant + kept @ slope`.
        """
        return self._axes.functions

    def evaluate(self, kept: Any) -> dict[str, Any]:
        """Return the cost for kept counts.

        Args:
            kept: Kept counts of shape `(groups,)` or `(n, groups)`, in the order of
                `graph.prunable`.

        Returns:
            `{"macs": ..., "params": ...}`, floats or arrays of shape `(n,)`.
        """
        lengths = self.lengths(kept)
        return {
            "macs": self.macs.total(lengths),
            "params": self.params.total(lengths),
        }

    def savings(
        self,
        kept: np.ndarray,
        group: int,
        widths: np.ndarray,
        budgets: Mapping[str, float],
    ) -> dict[str, np.ndarray]:
        saved = {}
        lengths = self.lengths(kept)
        mine, others = parted(budgets, TERMS)
        for name in mine:
            terms: Terms = getattr(self, name)
            saved[name] = terms.saved(lengths, group, kept[group] - widths)
        if others:
            saved |= super().savings(kept, group, widths, others)
        return saved

    def near(self, group: int, names: Iterable[str]) -> Collection[int]:
        if set(names) - set(TERMS):
            return super().near(group, names)
        return np.flatnonzero(self._coupled[group]).tolist()

    @functools.cached_property
    def _coupled(self) -> np.ndarray:
        """Whether a group's savings depend on another's width: `(groups, groups)`.

        They do if a term multiplies their axes. On a common axis, lengths are summed
        and do not affect each other's savings.
        """
        depends = self._axes.functions[1] != 0  # (groups, axes)
        count = depends.shape[1]
        together = self.macs.together(count) | self.params.together(count)
        return depends @ together @ depends.T

    @property
    def full(self) -> dict[str, float]:
        """Costs with all channels kept."""
        return {k: float(v) for k, v in self.evaluate(self.sizes).items()}


def multiplied(lengths: list[Products]) -> Products:
    """Return the product of sums of products."""
    return [
        (
            math.prod(coefficient for coefficient, _ in factors),
            [number for _, numbers in factors for number in numbers],
        )
        for factors in itertools.product(*lengths)
    ]


def unique_layers(graph: ChannelGraph) -> Iterable[keras.layers.Layer]:
    """Return every layer of the graph once, in order of its first call."""
    seen: dict[int, Any] = {}
    for visit in graph.visits.values():
        if isinstance(visit.operation, keras.layers.Layer):
            seen.setdefault(id(visit.operation), visit.operation)
    return seen.values()


def itemsize(dtype: str) -> int:
    """Return the number of bytes per element of a Keras data type."""
    if dtype == "bfloat16":
        return 2
    return np.dtype(dtype).itemsize
