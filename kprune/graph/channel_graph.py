"""Groups of channels that live and die together, and what they sit on."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np

from kprune.graph import describe
from kprune.graph.call import FILTER
from kprune.graph.call import INPUT
from kprune.graph.call import SCALE
from kprune.graph.call import Binding
from kprune.graph.kept import Kept
from kprune.graph.labels import Labels
from kprune.graph.labels import compress
from kprune.graph.labels import varying
from kprune.graph.values import read

if TYPE_CHECKING:
    from kprune.graph.tracer import Tracer


@dataclasses.dataclass(frozen=True, eq=False)
class Member:
    """One axis of one variable on which the channels of a group sit.

    Args:
        layer: The layer that owns the variable (never a wrapper).
        variable: The `keras.Variable`.
        name: Name of the variable in its layer, e.g. `"kernel"`.
        axis: Axis of the variable.
        index: `(size, m)` integers: the `m` positions on `axis` that belong
            to each channel.
        role: `"filter"` (output axis of a producer), `"scale"` (per-channel
            parameter), `"statistic"` (running statistic) or `"input"` (input
            axis of a consumer).
        feature_axis: For consumers, the axis of the layer's input tensor
            along which the channels run; None if no tensor shows them.
    """

    layer: keras.layers.Layer
    variable: keras.Variable
    name: str
    axis: int
    index: np.ndarray
    role: str
    feature_axis: int | None = None

    def matrix(self) -> np.ndarray:
        """The variable's values of each channel, flattened: `(size, d)`."""
        value = np.moveaxis(read(self.variable), self.axis, 0)
        return value[self.index].reshape(self.index.shape[0], -1)

    def __str__(self) -> str:
        return f"{self.layer.name}.{self.name}[axis {self.axis}]"


class Group:
    """Channels that sit on the same axes: the unit of allocation.

    Args:
        name: Name of the first layer that produces the channels.
        classes: Class ids of the channels, in channel order.
        pinned: Why the channels cannot be removed, or None.
        graph: The graph the group belongs to.
    """

    def __init__(
        self,
        name: str,
        classes: np.ndarray,
        pinned: str | None,
        graph: ChannelGraph,
    ):
        self.name = name
        self.classes = classes
        self.pinned = pinned
        self._graph = graph

    @property
    def size(self) -> int:
        """Number of channels."""
        return int(self.classes.size)

    @property
    def graph(self) -> ChannelGraph:
        """The graph the group belongs to."""
        return self._graph

    @functools.cached_property
    def members(self) -> tuple[Member, ...]:
        """All variable axes the channels sit on, in model order."""
        return self._graph.members_of(self)

    @property
    def producers(self) -> tuple[Member, ...]:
        """Output axes of the layers that compute the channels."""
        return tuple(m for m in self.members if m.role == FILTER)

    @property
    def scales(self) -> tuple[Member, ...]:
        """Per-channel parameters between producers and consumers."""
        return tuple(m for m in self.members if m.role == SCALE)

    @property
    def consumers(self) -> tuple[Member, ...]:
        """Input axes of the layers that read the channels."""
        return tuple(m for m in self.members if m.role == INPUT)

    def __repr__(self) -> str:
        state = "prunable" if self.pinned is None else f"pinned: {self.pinned}"
        return f"<Group '{self.name}': {self.size} channels, {state}>"

    def __str__(self) -> str:
        return describe.describe_group(self)


@dataclasses.dataclass(frozen=True)
class Coverage:
    """How many channels can be removed.

    Args:
        prunable: Channels that can be removed.
        pinned: Channels that cannot.
        reasons: Pinned channels by reason.
    """

    prunable: int
    pinned: int
    reasons: dict[str, int]

    @property
    def total(self) -> int:
        return self.prunable + self.pinned

    @property
    def share(self) -> float:
        """Prunable share of all channels, between 0 and 1."""
        return self.prunable / self.total if self.total else 0.0

    def __str__(self) -> str:
        line = (
            f"{self.prunable:,} of {self.total:,} channels prunable "
            f"({self.share:.1%})"
        )
        for reason, count in sorted(self.reasons.items(), key=lambda r: -r[1]):
            line += f"\n  {count:,} pinned: {reason}"
        return line


class ChannelGraph:
    """Which channels of a model live and die together.

    Made by `kprune.trace`.

    Example:

    ```python
    graph = kprune.trace(model)
    print(graph.coverage)
    for group in graph.prunable:
        print(group.name, group.size, [str(m) for m in group.members])
    ```
    """

    def __init__(self, model: keras.Model, tracer: Tracer):
        self.model = model
        self.tracer = tracer
        self.bindings: dict[int, Binding] = tracer.ledger.bindings
        self._resolved: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.classes = self._solve()
        self._reasons = tracer.ledger.slots.pinned(self.classes)
        self.groups = self._make_groups()
        self.prunable = tuple(g for g in self.groups if g.pinned is None)
        self._by_name = {g.name: g for g in self.groups}

    # -- solving -------------------------------------------------------------

    def _factors(self) -> list[np.ndarray]:
        unique: dict[int, np.ndarray] = {}
        for visit in self.tracer.visits.values():
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
        """Classes of all slots, once every tensor can stay rectangular.

        Whether a label array that varies along two axes (after a reshape) is
        resolved by a later layer is known only after the walk; what is left
        keeps its last axis and is merged along the others.
        """
        slots = self.tracer.ledger.slots
        several = [f for f in self._factors() if len(varying(f)) > 1]
        while True:
            classes = slots.components()
            if not several:
                return classes
            # What stays is alike, whyever it stays: it leaves no hole.
            pinned = slots.pinned(classes) >= 0
            alike = np.where(pinned, 0, np.arange(pinned.size))
            settled = True
            merged = np.zeros(alike.size, dtype=bool)
            for factor in several:
                seen = compress(alike[classes[factor]])
                axes = varying(seen)
                if len(axes) > 1 and merged[seen].any():
                    # Merged in this round through another tensor, perhaps the
                    # transposed one: what is left to do shows in the next.
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
        """The classes of a label array, size 1 where they are constant."""
        known = self._resolved.get(id(factor))
        if known is None:
            classes = self.classes[factor]
            if len(varying(factor)) > 1:
                classes = compress(classes)
            if len(varying(classes)) > 1:  # where nothing can be removed
                stays = self._reasons[classes] >= 0
                classes = compress(np.where(stays, 0, classes))
            # The factor is kept beside its classes so that its id stays taken.
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
            return self.tracer.ledger.slots.reasons[reason]
        if classes.size == 1:
            return "a single channel: removing it would leave an empty axis"
        return None

    def _groups_on(self, labels: np.ndarray) -> np.ndarray:
        groups = np.unique(self.group_of[self.classes[labels]])
        return groups[groups >= 0]

    @functools.cached_property
    def _places(self) -> list[list[tuple[Binding, int, np.ndarray]]]:
        """For every group, the `(binding, axis, labels)` it sits on."""
        places: list[list[Any]] = [[] for _ in self.groups]
        cache: dict[int, np.ndarray] = {}
        for binding in self.bindings.values():
            for axis, bound in binding.axes.items():
                for labels in bound.labels:
                    groups = cache.get(id(labels))
                    if groups is None:
                        groups = cache[id(labels)] = self._groups_on(labels)
                    for group in groups:
                        places[group].append((binding, axis, labels))
        return places

    def _names(self, count: int) -> list[str]:
        producer: list[str | None] = [None] * count
        anyone: list[str | None] = [None] * count
        cache: dict[int, np.ndarray] = {}
        for binding in self.bindings.values():
            for bound in binding.axes.values():
                for labels in bound.labels:
                    if id(labels) not in cache:
                        cache[id(labels)] = self._groups_on(labels)
                    names = producer if bound.role == FILTER else anyone
                    for group in cache[id(labels)]:
                        if names[group] is None:
                            names[group] = binding.layer.name
        taken: dict[str, int] = {}
        out = [""] * count
        # A layer's name belongs to the channels it produces, not to padding
        # that it reads.
        order = sorted(range(count), key=lambda n: producer[n] is None)
        for n in order:
            name = producer[n] or anyone[n] or "group"
            taken[name] = taken.get(name, 0) + 1
            out[n] = name if taken[name] == 1 else f"{name}:{taken[name]}"
        return out

    def members_of(self, group: Group) -> tuple[Member, ...]:
        """Computes `group.members`."""
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

    def kept(self, alive: dict[str, np.ndarray] | None = None) -> Kept:
        """Index arithmetic for one choice of living channels.

        Args:
            alive: Boolean vectors by group name; groups left out live whole.
        """
        living = np.ones(int(self.classes.max()) + 1, dtype=bool)
        for name, mask in (alive or {}).items():
            living[self[name].classes] = mask
        return Kept(living, self)

    def __repr__(self) -> str:
        count = f"{len(self.prunable)} of {len(self.groups)} groups prunable"
        return f"<ChannelGraph of '{self.model.name}': {count}>"

    def __str__(self) -> str:
        return describe.describe(self)
