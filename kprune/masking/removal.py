"""What is left behind masks, and its removal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from kprune.graph import ChannelGraph
from kprune.graph.values import read
from kprune.masking.slots import resting_values
from kprune.masking.slots import slots_by_variable

_Cuts = list[tuple[int, np.ndarray]]
"""Axes of a variable, each with positions."""


def zero_removed(
    masked: keras.Model,
    graph: ChannelGraph,
    masks: Mapping[str, np.ndarray],
    optimizer: Any = None,
) -> None:
    """Set to 0 what training could revive or penalise in removed channels.

    A mask alone makes removed weights act as 0. But momentum and weight decay
    go on moving the numbers behind it, and weight penalties go on counting
    them; this makes them 0 for good. Optimizer slots are as before the first
    step, which is 0 for nearly all of them.

    Args:
        masked: The masked model.
        graph: `kprune.trace(masked)`.
        masks: For each group's name a vector `(size,)`, 0 = removed.
        optimizer: Whose slots. Defaults to `masked.optimizer`.
    """
    places = _removed_places(graph, masks)
    if not places:
        return
    if optimizer is None:
        optimizer = getattr(masked, "optimizer", None)
    slots, resting = (
        slots_by_variable(masked, optimizer),
        resting_values(optimizer),
    )
    for variable in masked.variables:
        cuts = places.get(id(variable))
        if cuts is None:
            continue
        variable.assign(_filled(variable, cuts))
        for name, slot in slots.get(id(variable), {}).items():
            slot.assign(_filled(slot, cuts, resting.get(name, 0.0)))


def removed_values(
    masked: keras.Model, graph: ChannelGraph, masks: Mapping[str, np.ndarray]
) -> list[tuple[keras.Variable, np.ndarray]]:
    """Return the weights that `zero_removed` would change, with their values.

    Args:
        masked: The masked model.
        graph: `kprune.trace(masked)`.
        masks: For each group's name a vector `(size,)`, 0 = removed.
    """
    places = _removed_places(graph, masks)
    return [
        (v, _filled(v, places[id(v)]))
        for v in masked.variables
        if id(v) in places
    ]


def _removed_places(
    graph: ChannelGraph, masks: Mapping[str, np.ndarray]
) -> dict[int, _Cuts]:
    """Return, by `id(variable)`, axes and positions of removed channels."""
    places: dict[int, _Cuts] = {}
    for name, mask in masks.items():
        gone = np.asarray(mask) == 0
        if not gone.any():
            continue
        for member in graph[name].members:
            if member.role != "statistic":
                cuts = places.setdefault(id(member.variable), [])
                cuts.append((member.axis, member.index[gone].ravel()))
    return places


def _filled(variable: Any, cuts: _Cuts, filling: float = 0.0) -> np.ndarray:
    value = np.array(read(variable))
    for axis, positions in cuts:
        np.moveaxis(value, axis, 0)[positions] = filling
    return value
