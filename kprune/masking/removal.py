"""Zeroing of weights and optimizer slots behind masks."""

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
"""Axes of a variable, each with the positions to fill."""


def zero_removed(
    masked: keras.Model,
    graph: ChannelGraph,
    masks: Mapping[str, np.ndarray],
    optimizer: Any = None,
) -> None:
    """Set the weights of removed channels to 0, and reset their optimizer slots.

    Behind a mask, momentum and weight decay still change the weights, and
    weight penalties still count them; both stop once weights and slots are 0.
    Slots are set to their values before the first step, 0 for nearly all.

    Args:
        masked: The masked model.
        graph: `kprune.trace(masked)`.
        masks: Group name -> vector of shape `(size,)`, 0 = removed.
        optimizer: The optimizer with the slots. Defaults to `masked.optimizer`.
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
        for slot in slots.get(id(variable), {}).values():
            slot.assign(_filled(slot, cuts, resting.get(id(slot), 0.0)))


def removed_values(
    masked: keras.Model, graph: ChannelGraph, masks: Mapping[str, np.ndarray]
) -> list[tuple[keras.Variable, np.ndarray]]:
    """Return the weights that `zero_removed` would change, with their new values.

    Args:
        masked: The masked model.
        graph: `kprune.trace(masked)`.
        masks: Group name -> vector of shape `(size,)`, 0 = removed.
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
    """Return the axes and positions of removed channels by `id(variable)`."""
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
