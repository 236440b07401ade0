"""The record of attenuated filters, stored in the masked model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from kprune.graph.channel_graph import ChannelGraph
from kprune.graph.channel_graph import Group
from kprune.graph.tracer import trace
from kprune.masking.filter_mask import FilterMask
from kprune.masking.wrapping import check_vector
from kprune.masking.wrapping import require_masked
from kprune.masking.wrapping import wrappers_by_layer


def attenuation(
    masked: keras.Model, graph: ChannelGraph | None = None
) -> dict[str, np.ndarray]:
    """Return the factors by which filters were attenuated in place.

    `AttenuateCallback` scales weights in place and records the factors, which
    are saved with the model.

    Args:
        masked: A model made by `kprune.wrap`.
        graph: `kprune.trace(masked)`, if you have it already.

    Returns:
        Prunable group name -> float vector of shape `(group.size,)`: the product
        of the factors of consecutive steps, 1 for unchanged filters.

    Example:

    ```python
    weak = {n: v < 1 for n, v in kprune.masking.attenuation(masked).items()}
    ```
    """
    require_masked(masked)
    graph = graph or trace(masked)
    wrappers = wrappers_by_layer(masked)
    return {g.name: _read(g, wrappers) for g in graph.prunable}


def _read(group: Group, wrappers: dict[int, FilterMask]) -> np.ndarray:
    for member in group.producers:
        wrapper = wrappers[id(member.layer)]
        vector = wrapper.axis_attenuation(member.variable, member.axis)
        if vector is not None:
            return vector[member.index].min(axis=1)
    return np.ones(group.size, dtype="float32")


def set_attenuation(
    masked: keras.Model,
    vectors: Mapping[str, Any],
    graph: ChannelGraph | None = None,
) -> None:
    """Record the factors by which filters of the named groups were attenuated.

    Only the record changes, not the filters.

    Args:
        masked: A model made by `kprune.wrap`.
        vectors: Group name -> vector of shape `(group.size,)` from 0 to 1.
        graph: `kprune.trace(masked)`, if you have it already.

    Raises:
        ValueError: If a name is not a prunable group, or a vector has the wrong
            shape or values.
    """
    require_masked(masked)
    graph = graph or trace(masked)
    wrappers = wrappers_by_layer(masked)
    for name, given in vectors.items():
        value = check_vector(graph, name, given)
        for member in graph[name].producers:
            wrapper = wrappers[id(member.layer)]
            at = (member.variable, member.axis)
            vector = wrapper.axis_attenuation(*at)
            if vector is not None:
                vector = np.array(vector)
                vector[member.index] = value[:, None]
                wrapper.set_axis_attenuation(*at, vector)
