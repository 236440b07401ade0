"""Channels that carry another channel's weights, and the sums that undo them.

A channel's weights sit on one axis of several variables. What makes it a copy
of a donor acts along those axes only, so that axes can be handled one after
the other, in any order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Iterable

import keras
import numpy as np

from kprune.graph.channel_graph import ChannelGraph
from kprune.graph.channel_graph import Member
from kprune.graph.record import INPUT
from kprune.graph.values import read
from kprune.masking.slots import slots_by_variable

# (group name, member, values by channel (size, m, ...)) -> new such values.
Edit = Callable[[str, Member, np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class CopyMap:
    """The channels of a group that become copies of others.

    Args:
        donors: `(size,)` integers: the channel whose weights each channel
            takes; itself where nothing changes.
        shares: `(size,)` floats: each channel's part of the weights with
            which the donor is read. They add up to 1 over a donor and its
            copies. Default: equal parts.
    """

    donors: np.ndarray
    shares: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        if not self.shares.size:
            counts = np.bincount(self.donors, minlength=self.donors.size)
            object.__setattr__(self, "shares", 1.0 / counts[self.donors])

    @property
    def replaced(self) -> np.ndarray:
        """`(size,)` booleans: channels that become copies."""
        return self.donors != np.arange(self.donors.size)

    def sets(self) -> list[np.ndarray]:
        """Return the channels of equal weights, each donor in front of its copies."""
        donors = np.unique(self.donors[self.replaced])
        return [
            np.concatenate(
                [[d], np.flatnonzero(self.replaced & (self.donors == d))]
            )
            for d in donors
        ]


def places(
    graph: ChannelGraph, names: Iterable[str]
) -> dict[int, list[tuple[str, Member]]]:
    """Return where the channels of some groups sit, by `id(variable)`."""
    found: dict[int, list[tuple[str, Member]]] = {}
    for name in names:
        for member in graph[name].members:
            found.setdefault(id(member.variable), []).append((name, member))
    return found


def edited(
    value: np.ndarray, spots: Iterable[tuple[str, Member]], edit: Edit
) -> np.ndarray:
    """Return a variable's value after an edit of the channels that sit on it.

    Args:
        value: The value; it is not changed.
        spots: `(group name, member)` pairs of the variable, see `places`.
        edit: Maps a member's values by channel, `(size, m, ...)` with the
            member's axis replaced by the first two, to new ones.
    """
    for name, member in spots:
        moved = np.moveaxis(value, member.axis, 0)
        rows = moved[member.index]
        new = edit(name, member, rows)
        if new is rows:
            continue
        out = np.array(moved)
        out[member.index] = new.astype(value.dtype, copy=False)
        value = np.moveaxis(out, 0, member.axis)
    return value


def split(maps: dict[str, CopyMap]) -> Edit:
    """Copy donors, and split among its copies how a donor is read.

    What the model computes is then what it computes without the replaced
    channels, as in Net2WiderNet (Chen et al., arXiv 1511.05641).
    """

    def edit(name: str, member: Member, rows: np.ndarray) -> np.ndarray:
        known = maps[name]
        rows = rows[known.donors]
        if member.role != INPUT:
            return rows
        shape = [-1] + [1] * (rows.ndim - 1)
        return rows * known.shares.reshape(shape)

    return edit


def merge(maps: dict[str, CopyMap]) -> Edit:
    """Give donors the mean weights of their sets, read with summed weights.

    The copies are left as they are: they are to be removed.
    """

    def edit(name: str, member: Member, rows: np.ndarray) -> np.ndarray:
        out = rows.copy()
        for channels in maps[name].sets():
            together = rows[channels]
            if member.role == INPUT:
                out[channels[0]] = together.sum(axis=0)
            elif not (together == together[:1]).all():
                # The mean of equal numbers may differ from them by rounding.
                out[channels[0]] = together.mean(axis=0, dtype="float64")
        return out

    return edit


def tie(maps: dict[str, CopyMap]) -> Edit:
    """Give all channels of a set the set's mean weights; readers stay."""

    def edit(name: str, member: Member, rows: np.ndarray) -> np.ndarray:
        if member.role == INPUT:
            return rows
        out = rows.copy()
        for channels in maps[name].sets():
            together = rows[channels]
            if not (together == together[:1]).all():
                out[channels] = together.mean(axis=0, dtype="float64")
        return out

    return edit


def assign(
    model: keras.Model,
    graph: ChannelGraph,
    maps: dict[str, CopyMap],
    edit: Edit,
    slots: bool = False,
) -> None:
    """Edit a model's variables in place, all from the values they have now.

    Args:
        model: A masked model.
        graph: `kprune.trace(model)`.
        maps: Copy maps by group name.
        edit: What to do, for example `split(maps)`.
        slots: Whether to edit the optimizer's slots likewise.
    """
    spots = places(graph, maps)
    known = slots_by_variable(model) if slots else {}
    for variable in model.variables:
        mine = spots.get(id(variable))
        if not mine:
            continue
        for target in [variable, *known.get(id(variable), {}).values()]:
            target.assign(np.array(edited(read(target), mine, edit)))
