"""Groups of channels that must be removed together, and where they occur."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np

from kprune.display import Displayed
from kprune.graph import describe
from kprune.graph import walk
from kprune.graph.call import FILTER
from kprune.graph.call import STATISTIC
from kprune.graph.call import Binding
from kprune.graph.call import MaskInput
from kprune.graph.call import Visit
from kprune.graph.call import Work
from kprune.graph.group import Coverage as Coverage
from kprune.graph.group import Group as Group
from kprune.graph.group import Member as Member
from kprune.graph.kept import Kept
from kprune.graph.labels import Labels
from kprune.graph.labels import compress
from kprune.graph.labels import varying
from kprune.graph.opaque import Opaque

if TYPE_CHECKING:
    from kprune.graph.tracer import NestedVisit
    from kprune.graph.tracer import Tracer


class ChannelGraph(Displayed):
    """Groups of channels of a model that can only be removed together.

    Use `kprune.trace` to make one.

    Example:

    ```python
    graph = kprune.trace(model)
    print(graph.coverage)
    for group in graph.prunable:
        print(group.name, group.size, [str(m) for m in group.members])
    ```
    """

    def __init__(self, model: keras.Model, tracer: Tracer) -> None:
        self.model = model
        # Calls by `id(node)`, nested models by `id(model)`, variables by
        # `id(variable)`.
        self.visits: dict[int, Visit] = tracer.visits
        self.nested: dict[int, NestedVisit] = tracer.nested
        self.bindings: dict[int, Binding] = tracer.record.bindings
        self.mask_inputs: tuple[MaskInput, ...] = tuple(
            tracer.record.mask_inputs.values()
        )
        self.work: tuple[Work, ...] = tuple(tracer.record.work)
        # Layers with weights whose call was not analysed, and layers and models
        # whose call was read as a functional model.
        self.opaque: tuple[Opaque, ...] = tuple(tracer.opaque.values())
        self.read: tuple[keras.layers.Layer, ...] = tuple(tracer.read)
        self._slots = tracer.record.slots
        # Caches keyed by `id(array)`. They hold the array, so that its id is not
        # reused.
        self._resolved: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._numbers: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.classes = self._solve()
        self._reasons = self._slots.pinned(self.classes)
        self.groups = self._make_groups()
        for group in self.groups:
            if group.pinned is None and self._only_counted(group):
                group.pinned = "nothing but running statistics follow it"
        self.prunable = tuple(g for g in self.groups if g.pinned is None)
        self._by_name = {g.name: g for g in self.groups}

    # -- solving -------------------------------------------------------------

    def _factors(self) -> list[np.ndarray]:
        unique: dict[int, np.ndarray] = {}
        for visit in self.visits.values():
            for labels in (*visit.outputs, *visit.constants.values()):
                for factor in labels.factors:
                    unique[id(factor)] = factor
        return list(unique.values())

    def _axis_labels(self) -> list[np.ndarray]:
        unique: dict[int, np.ndarray] = {}
        for binding in self.bindings.values():
            for axis in binding.axes.values():
                for labels in axis.labels:
                    unique[id(labels)] = labels
        return list(unique.values())

    def _solve(self) -> np.ndarray:
        """Return the class of every slot, such that all tensors stay rectangular.

        Only after the walk is it known whether a later layer resolves a label
        array that varies along two axes (after a reshape). An unresolved one
        keeps its last axis and is merged along the others.
        """
        slots = self._slots
        several = [f for f in self._factors() if len(varying(f)) > 1]
        while True:
            classes = slots.components()
            if not several:
                return classes
            # Pinned classes count as one: none of them leaves a gap.
            pinned = slots.pinned(classes) >= 0
            alike = np.where(pinned, 0, np.arange(pinned.size))
            settled = True
            merged = np.zeros(alike.size, dtype=bool)
            for factor in several:
                seen = compress(alike[classes[factor]])
                axes = varying(seen)
                if len(axes) > 1 and merged[seen].any():
                    # Another tensor, perhaps a transpose, was merged with these
                    # classes in this round: look at the result in the next.
                    settled = False
                    continue
                for axis in axes[:-1]:
                    settled = False
                    merged[seen] = True
                    merged[0] = False
                    slots.union(
                        factor,
                        factor.take([0], axis=axis),
                        "would leave a tensor with ragged rows",
                    )
            if settled:
                return classes

    def resolve(self, factor: np.ndarray) -> np.ndarray:
        """Return the classes of a label array, with size 1 along constant axes."""
        known = self._resolved.get(id(factor))
        if known is None:
            classes = self.classes[factor]
            if len(varying(factor)) > 1:
                classes = compress(classes)
            if len(varying(classes)) > 1:  # where nothing can be removed
                stays = self._reasons[classes] >= 0
                classes = compress(np.where(stays, 0, classes))
            known = self._resolved[id(factor)] = (factor, classes)
        return known[1]

    def resolve_labels(self, labels: Labels) -> Labels:
        return labels.replace(
            factors=tuple(self.resolve(f) for f in labels.factors)
        )

    # -- groups --------------------------------------------------------------

    def _make_groups(self) -> tuple[Group, ...]:
        count = int(self.classes.max()) + 1
        arrays = [self.resolve(f).ravel() for f in self._factors()]
        axis_arrays = [self.classes[a] for a in self._axis_labels()]
        arrays += axis_arrays
        bound = np.zeros(count, dtype=bool)
        for array in axis_arrays:
            bound[array] = True
        bound[0] = False
        signature = np.zeros(count, dtype=np.uint64)
        if arrays:
            keys = np.random.default_rng(0).integers(
                1, 2**63, size=len(arrays), dtype=np.uint64
            )
            lengths = [a.size for a in arrays]
            np.add.at(
                signature, np.concatenate(arrays), np.repeat(keys, lengths)
            )
        members = np.flatnonzero(bound)
        table = np.stack(
            [signature[members], self._reasons[members].astype(np.uint64)]
        )
        _, first, inverse = np.unique(
            table, axis=1, return_index=True, return_inverse=True
        )
        inverse = inverse.ravel()
        order = np.argsort(first)
        rank = np.empty_like(order)
        rank[order] = np.arange(order.size)
        self.group_of = np.full(count, -1)
        self.group_of[members] = rank[inverse]
        self.position_of = np.zeros(count, dtype=int)
        sets = []
        for number in range(order.size):
            classes = members[rank[inverse] == number]
            self.position_of[classes] = np.arange(classes.size)
            sets.append(classes)
        names = self._names(len(sets))
        return tuple(
            Group(name, classes, self._why_pinned(classes), self)
            for name, classes in zip(names, sets, strict=True)
        )

    def _why_pinned(self, classes: np.ndarray) -> str | None:
        reason = int(self._reasons[classes[0]])
        if reason >= 0:
            return self._slots.reasons[reason]
        if classes.size == 1:
            return "a single channel: removing it would leave an empty axis"
        return None

    def _only_counted(self, group: Group) -> bool:
        """Return whether a group has running statistics only, no weight to mask."""
        number = self.group_of[group.classes[0]]
        return all(
            binding.axes[axis].role == STATISTIC
            for binding, axis, _ in self._places[number]
        )

    def _numbers_on(self, labels: np.ndarray) -> np.ndarray:
        """Return the numbers of the groups with channels in a label array."""
        known = self._numbers.get(id(labels))
        if known is None:
            numbers = np.unique(self.group_of[self.classes[labels]])
            known = (labels, numbers[numbers >= 0])
            self._numbers[id(labels)] = known
        return known[1]

    @functools.cached_property
    def _places(self) -> list[list[tuple[Binding, int, np.ndarray]]]:
        """`(binding, axis, labels)` of every place of every group."""
        places: list[list[Any]] = [[] for _ in self.groups]
        for binding in self.bindings.values():
            for axis, bound in binding.axes.items():
                for labels in bound.labels:
                    for group in self._numbers_on(labels):
                        places[group].append((binding, axis, labels))
        return places

    def _names(self, count: int) -> list[str]:
        producer: list[str | None] = [None] * count
        anyone: list[str | None] = [None] * count
        for binding in self.bindings.values():
            for bound in binding.axes.values():
                for labels in bound.labels:
                    names = producer if bound.role == FILTER else anyone
                    for group in self._numbers_on(labels):
                        if names[group] is None:
                            names[group] = binding.layer.name
        taken: dict[str, int] = {}
        out = [""] * count
        # A layer's name goes to the channels it produces, not to padding that
        # it reads.
        order = sorted(range(count), key=lambda n: producer[n] is None)
        for n in order:
            name = producer[n] or anyone[n] or "group"
            taken[name] = taken.get(name, 0) + 1
            out[n] = name if taken[name] == 1 else f"{name}:{taken[name]}"
        return out

    def members_of(self, group: Group) -> tuple[Member, ...]:
        """Compute `group.members`."""
        number = self.group_of[group.classes[0]]
        members = []
        for binding, axis, labels in self._places[number]:
            classes = self.classes[labels]
            mine = np.flatnonzero(self.group_of[classes] == number)
            channel = self.position_of[classes[mine]]
            order = np.argsort(channel, kind="stable")
            index = mine[order].reshape(group.size, -1)
            bound = binding.axes[axis]
            members.append(
                Member(
                    binding.layer,
                    binding.variable,
                    binding.variable.name,
                    axis,
                    index,
                    bound.role,
                    bound.feature_axis,
                )
            )
        return tuple(members)

    # -- reading -------------------------------------------------------------

    def groups_on(self, labels: Iterable[np.ndarray]) -> list[Group]:
        """Return the groups with channels on an axis, in model order.

        Args:
            labels: 1-D label arrays of the axis.
        """
        numbers = {int(n) for array in labels for n in self._numbers_on(array)}
        return [self.groups[number] for number in sorted(numbers)]

    def spread(
        self, vectors: Mapping[str, np.ndarray], fill: Any = 1.0
    ) -> np.ndarray:
        """Return one value per class, for use with `project`.

        Args:
            vectors: Group name -> vector of shape `(group.size,)`.
            fill: Value for the classes of all other groups.
        """
        values = np.full(int(self.classes.max()) + 1, fill)
        for name, vector in vectors.items():
            values[self[name].classes] = vector
        return values

    def project(
        self, labels: Sequence[np.ndarray], values: np.ndarray
    ) -> np.ndarray:
        """Return the values of the channels along an axis, of shape `(length,)`.

        If two axes were flattened into one, each position belongs to a channel
        of both, and their values are multiplied.

        Args:
            labels: 1-D label arrays of the axis.
            values: One value per class. See `spread`.
        """
        product = values[self.classes[labels[0]]]
        for more in labels[1:]:
            product = product * values[self.classes[more]]
        return product

    def __getitem__(self, name: str) -> Group:
        try:
            return self._by_name[name]
        except KeyError:
            import difflib

            close = difflib.get_close_matches(name, self._by_name, n=3)
            hint = f" Did you mean {close}?" if close else ""
            raise KeyError(
                f"Model '{self.model.name}' has no group '{name}'.{hint}"
            ) from None

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    @functools.cached_property
    def coverage(self) -> Coverage:
        """Prunable and pinned channels of all producing layers."""
        reasons: dict[str, int] = {}
        prunable = 0
        for group in self.groups:
            if not group.producers:
                continue
            if group.pinned is None:
                prunable += group.size
            else:
                reasons[group.pinned] = (
                    reasons.get(group.pinned, 0) + group.size
                )
        return Coverage(prunable, sum(reasons.values()), reasons)

    @functools.cached_property
    def names(self) -> set[str]:
        """Names of all operations of the model, nested models included."""
        return walk.names(self.model)

    def kept(self, alive: Mapping[str, np.ndarray] | None = None) -> Kept:
        """Return which positions of every axis remain for a choice of channels.

        Args:
            alive: Group name -> vector of shape `(group.size,)`: booleans, or
                integers that count copies of a channel. Groups left out keep
                all channels.
        """
        return Kept(self.spread(alive or {}, fill=1), self)

    def __repr__(self) -> str:
        count = f"{len(self.prunable)} of {len(self.groups)} groups prunable"
        return f"<ChannelGraph of '{self.model.name}': {count}>"

    def __str__(self) -> str:
        return describe.describe(self)
