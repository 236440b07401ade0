"""Parts of a channel graph: groups, their members and the coverage."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING

import keras
import numpy as np

from kprune.graph import describe
from kprune.graph.call import FILTER
from kprune.graph.call import INPUT
from kprune.graph.call import SCALE
from kprune.graph.values import read

if TYPE_CHECKING:
    from kprune.graph.channel_graph import ChannelGraph


@dataclasses.dataclass(frozen=True, eq=False)
class Member:
    """One axis of one variable that holds channels of a group.

    Args:
        layer: The layer that owns the variable (never a wrapper).
        variable: The `keras.Variable`.
        name: Name of the variable in its layer, e.g. `"kernel"`.
        axis: Axis of the variable.
        index: Integers of shape `(size, m)`: the `m` positions on `axis` of
            each channel.
        role: `"filter"` (output axis of a producer), `"scale"` (per-channel
            parameter), `"statistic"` (running statistic) or `"input"` (input
            axis of a consumer).
        feature_axis: For consumers, the axis of the layer's input tensor
            along which the channels run; None if they are not an axis of it.
    """

    layer: keras.layers.Layer
    variable: keras.Variable
    name: str
    axis: int
    index: np.ndarray
    role: str
    feature_axis: int | None = None

    def matrix(self) -> np.ndarray:
        """Return the variable's values per channel, of shape `(size, d)`."""
        value = np.moveaxis(read(self.variable), self.axis, 0)
        return value[self.index].reshape(self.index.shape[0], -1)

    def __str__(self) -> str:
        return f"{self.layer.name}.{self.name}[axis {self.axis}]"


class Group:
    """Channels that occur on the same axes: the unit of allocation.

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
    ) -> None:
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
        """All variable axes with the channels, in model order."""
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
    """Counts of prunable and pinned channels.

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
