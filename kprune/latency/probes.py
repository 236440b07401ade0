"""Choose the widths to convert a model at, so that its axes can be distinguished."""

from __future__ import annotations

import numpy as np

from kprune.cost.model import CostModel
from kprune.graph import ChannelGraph

_FEWEST = 0.25
_TRIES = 300
_PROBES = (2, 3, 4)


def probes(
    graph: ChannelGraph, widths: tuple[np.ndarray, np.ndarray]
) -> list[np.ndarray]:
    """Return kept counts that distinguish all widths of a model.

    Args:
        graph: The model's channels.
        widths: Constants `(widths,)` and slopes `(groups, widths)`.

    Returns:
        A list of counts `(groups,)`: all channels, then random numbers.
    """
    sizes = np.array([group.size for group in graph.prunable])
    rng = np.random.default_rng(0)
    best, most = [sizes], 0
    for count in _PROBES:
        for _ in range(_TRIES):
            drawn = [
                rng.integers(np.ceil(_FEWEST * sizes).astype(int), sizes + 1)
                for _ in range(count)
            ]
            distinct = _distinct([sizes, *drawn], widths)
            if distinct > most:
                best, most = [sizes, *drawn], distinct
            if most == widths[0].size:
                return best
    return best


def _distinct(
    kept: list[np.ndarray], widths: tuple[np.ndarray, np.ndarray]
) -> int:
    """Return the number of widths that are not in proportion."""
    values = widths[0] + np.array(kept) @ widths[1]
    directions = np.round(values / values[0], 9)
    return int(np.unique(directions, axis=1).shape[1])


def functions(graph: ChannelGraph) -> tuple[np.ndarray, np.ndarray]:
    """Return all widths of a model that vary and are not in proportion.

    Returns:
        Constants `(widths,)` and slopes `(groups, widths)`.
    """
    constants, slopes = CostModel(graph).axis_functions()
    varying = slopes.any(axis=0)
    table = np.vstack([constants, slopes])[:, varying]
    sizes = np.array([1, *(group.size for group in graph.prunable)])
    shares = table / (sizes @ table)
    _, first = np.unique(np.round(shares, 12), axis=1, return_index=True)
    table = table[:, np.sort(first)]
    return table[0], table[1:]
