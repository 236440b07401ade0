"""What is left behind masks, and its removal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from kprune.graph import ChannelGraph
from kprune.masking.slots import slots_by_variable

Cuts = list[tuple[int, np.ndarray]]
"""Axes of a variable, each with positions."""


def zero_removed(
    masked: keras.Model, graph: ChannelGraph, masks: Mapping[str, np.ndarray]
) -> None:
    """Set to 0 what training could revive or penalise in removed channels.

    A mask alone makes removed weights act as 0. But momentum and weight decay
    go on moving the numbers behind it, and weight penalties go on counting
    them; this makes them 0, along with their optimizer slots, for good.

    Args:
        masked: The masked model.
        graph: `kprune.trace(masked)`.
        masks: For each group's name a vector `(size,)`, 0 = removed.
    """
    places = removed_places(graph, masks)
    slots = slots_by_variable(masked)
    for variable in masked.variables:
        for target in [variable, *slots.get(id(variable), [])]:
            zero(target, places.get(id(variable), []))


def removed_places(
    graph: ChannelGraph, masks: Mapping[str, np.ndarray]
) -> dict[int, Cuts]:
    """Return, by `id(variable)`, axes and positions of removed channels."""
    places: dict[int, Cuts] = {}
    for name, mask in masks.items():
        gone = np.asarray(mask) == 0
        if not gone.any():
            continue
        for member in graph[name].members:
            if member.role != "statistic":
                cuts = places.setdefault(id(member.variable), [])
                cuts.append((member.axis, member.index[gone].ravel()))
    return places


def zero(variable: Any, cuts: Cuts) -> None:
    """Set parts of a variable to 0."""
    if not cuts:
        return
    value = np.array(ops.convert_to_numpy(variable))
    for axis, positions in cuts:
        np.moveaxis(value, axis, 0)[positions] = 0
    variable.assign(value)
