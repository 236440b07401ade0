"""Copying of channels within a group, and merging of copies.

The weights of a channel are on one axis of several variables. Making it a copy
of a donor acts along these axes only, so the axes can be edited one by one, in
any order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from kprune.graph.channel_graph import ChannelGraph
from kprune.graph.channel_graph import Member
from kprune.graph.record import INPUT
from kprune.graph.values import read
from kprune.masking.slots import edited_slots

# (group name, member, values of shape (size, m, ...)) -> new values, same shape.
Edit = Callable[[str, Member, np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class CopyMap:
    """The channels of a group that become copies of others.

    Args:
        donors: Integers of shape `(size,)`: the channel whose weights each
            channel gets, or the channel itself if it does not change.
        shares: Floats of shape `(size,)`: the factor on the donor's weights
            with which each channel is read. The shares of a donor and its
            copies sum to 1. Defaults to equal shares.
    """

    donors: np.ndarray
    shares: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        if not self.shares.size:
            counts = np.bincount(self.donors, minlength=self.donors.size)
            object.__setattr__(self, "shares", 1.0 / counts[self.donors])

    @property
    def replaced(self) -> np.ndarray:
        """Booleans of shape `(size,)`: whether a channel becomes a copy."""
        return self.donors != np.arange(self.donors.size)

    def sets(self) -> list[np.ndarray]:
        """Return each set of equal channels, with the donor first."""
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
    """Return the members of some groups, with their names, by `id(variable)`."""
    found: dict[int, list[tuple[str, Member]]] = {}
    for name in names:
        for member in graph[name].members:
            found.setdefault(id(member.variable), []).append((name, member))
    return found


def edited(
    value: np.ndarray, spots: Iterable[tuple[str, Member]], edit: Edit
) -> np.ndarray:
    """Return a variable's value after an edit of its channels.

    Args:
        value: The value; it is not changed.
        spots: `(group name, member)` pairs of the variable. See `places`.
        edit: Maps a member's values to new ones. They have shape
            `(size, m, ...)`: the member's axis is replaced by the first two.
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
    """Return an edit that copies donors and splits the weights of their readers.

    The model then computes the same as without the replaced channels, as in
    Net2WiderNet (Chen et al., arXiv 1511.05641).
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
    """Return an edit that merges each set into its donor.

    Donors get the mean of their set and are read with the sum of its weights.
    The copies stay unchanged, because they are going to be removed.
    """

    def edit(name: str, member: Member, rows: np.ndarray) -> np.ndarray:
        out = rows.copy()
        for channels in maps[name].sets():
            together = rows[channels]
            if member.role == INPUT:
                out[channels[0]] = together.sum(axis=0)
            elif not (together == together[:1]).all():
                # Skipped for equal numbers, whose mean may differ by rounding.
                out[channels[0]] = together.mean(axis=0, dtype="float64")
        return out

    return edit


def tie(maps: dict[str, CopyMap]) -> Edit:
    """Return an edit that sets all channels of a set to its mean; readers stay."""

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
    optimizer: Any = None,
) -> None:
    """Edit a model's variables in place, and copies of them in the optimizer.

    Args:
        model: A masked model.
        graph: `kprune.trace(model)`.
        maps: Copy maps by group name.
        edit: The edit, for example `split(maps)`.
        slots: Whether to edit the optimizer's other slots in the same way.
        optimizer: The optimizer. Defaults to `model.optimizer`.
    """
    spots = places(graph, maps)
    known = edited_slots(model, optimizer, slots)
    for variable in model.variables:
        mine = spots.get(id(variable))
        if not mine:
            continue
        for target in [variable, *known.get(id(variable), {}).values()]:
            target.assign(np.array(edited(read(target), mine, edit)))
