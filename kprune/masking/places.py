"""Access to all masks of a wrapped model."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import numpy as np

from kprune.graph.channel_graph import ChannelGraph
from kprune.masking.filter_mask import FilterMask


@dataclasses.dataclass(frozen=True, eq=False)
class MaskPlace:
    """One mask of one wrapper: on an axis of a weight, or of a tensor.

    Args:
        wrapper: The wrapper.
        read: Function that returns the mask, of shape `(length,)`.
        write: Function that sets the mask.
        labels: 1-D label arrays of the axis. See `ChannelGraph.project`.
        write_factor: Function that sets the attenuation factors of the axis, or
            None if it has none.
    """

    wrapper: FilterMask
    read: Callable[[], Any]
    write: Callable[[np.ndarray], None]
    labels: list[np.ndarray]
    write_factor: Callable[[np.ndarray], None] | None = None


def mask_places(
    graph: ChannelGraph, wrappers: Mapping[int, FilterMask]
) -> Iterator[MaskPlace]:
    """Yield every mask of a model.

    Args:
        graph: `kprune.trace(masked)`.
        wrappers: The model's `wrappers_by_layer`.
    """
    for entry in graph.mask_inputs:
        wrapper = wrappers.get(id(entry.layer))
        if wrapper is None:
            continue
        if (id(entry.layer), entry.name) in wrapper.masked_axes():
            yield MaskPlace(
                wrapper,
                functools.partial(wrapper.tensor_mask, entry.name),
                functools.partial(wrapper.set_tensor_mask, entry.name),
                entry.labels,
            )
    for binding in graph.bindings.values():
        wrapper = wrappers.get(id(binding.layer))
        if wrapper is None:
            continue
        for axis, bound in binding.axes.items():
            at = (binding.variable, axis)
            if wrapper.axis_mask(*at) is None:
                continue
            factor = wrapper.axis_factor(*at)
            yield MaskPlace(
                wrapper,
                functools.partial(wrapper.axis_mask, *at),
                functools.partial(wrapper.set_axis_mask, *at),
                bound.labels,
                None
                if factor is None
                else functools.partial(wrapper.set_axis_factor, *at),
            )
