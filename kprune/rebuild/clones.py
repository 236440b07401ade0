"""Search for channels of equal weights, which a rebuild can merge."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import keras
import numpy as np

from kprune.graph.channel_graph import ChannelGraph
from kprune.graph.channel_graph import Group
from kprune.graph.channel_graph import Member
from kprune.graph.record import FILTER
from kprune.graph.record import INPUT
from kprune.graph.values import read
from kprune.masking.filter_mask import FilterMask
from kprune.masking.wrapping import wrappers_by_layer
from kprune.rebuild.copies import CopyMap
from kprune.rebuild.equivalence import inexact

logger = logging.getLogger("kprune")

ROUNDING = {"float64": 16 * np.finfo("float64").eps, "float32": 1e-6}
"""Relative differences of copies that differ only by rounding, by data type."""

# How many weights per position, and how many random projections of them, the
# first comparison of channels uses.
SAMPLE, PROJECTIONS = 64, 3


def find_clones(
    masked: keras.Model,
    graph: ChannelGraph,
    alive: Mapping[str, np.ndarray],
    tolerance: float | str = 0.0,
) -> dict[str, CopyMap]:
    """Find alive channels that are computed identically.

    Two channels are clones if the weights of all filters, scales and statistics
    that produce them are equal, and if every layer they pass treats such
    channels alike. Channels whose filters are 0 do not count.

    Args:
        masked: A model made by `kprune.wrap`.
        graph: `kprune.trace(masked)`.
        alive: Group name -> booleans of shape `(size,)`; groups left out are
            not searched.
        tolerance: Largest difference between weights, relative to the largest
            weight of their variable, or `"rounding"`. See `rebuild`.

    Returns:
        Group name -> `CopyMap`, for groups with clones only. The first channel
        of each set is the donor.
    """
    wrappers = wrappers_by_layer(masked)
    maps = {}
    for name, living in alive.items():
        donors = _donors(
            graph[name], np.asarray(living) > 0, wrappers, tolerance
        )
        if donors is not None:
            maps[name] = CopyMap(donors)
    if not maps:
        return {}
    for name, why in inexact(masked, graph, maps).items():
        logger.info("Clones in group '%s' are not merged: %s", name, why)
        del maps[name]
    return maps


def _donors(
    group: Group,
    alive: np.ndarray,
    wrappers: dict[int, FilterMask],
    tolerance: float | str,
) -> np.ndarray | None:
    """Return the first equal channel of every channel, or None if all differ."""
    makers = [m for m in group.members if m.role != INPUT]
    kernels = [m for m in makers if m.role == FILTER and m.name != "bias"]
    if not kernels:
        return None
    living = np.flatnonzero(alive)
    # Most models have no clones, as a first look at the plain weights shows.
    first = read(kernels[0].variable)
    limit = _limit(tolerance, kernels[0], first)
    sets = [living[_close_pairs(first, kernels[0], living, limit)]]
    # Kernels first: they distinguish channels best.
    for member in [*kernels, *(m for m in makers if m not in kernels)]:
        if not any(channels.size for channels in sets):
            return None
        value = _effective(member, wrappers)
        limit = _limit(tolerance, member, value)
        sets = [
            part
            for channels in sets
            for part in _near(value, member, channels, limit)
        ]
    # Filters of zeros are not merged: finding them is a criterion's task.
    sets = [s for s in sets if _is_nonzero(s[0], kernels, wrappers, tolerance)]
    donors = np.arange(group.size)
    for channels in sets:
        donors[channels] = channels[0]
    return donors if sets else None


def _is_nonzero(
    channel: int,
    kernels: list[Member],
    wrappers: dict[int, FilterMask],
    tolerance: float | str,
) -> bool:
    for member in kernels:
        value = _effective(member, wrappers)
        own = value.take(member.index[channel], member.axis)
        if _largest(own) > _limit(tolerance, member, value):
            return True
    return False


def _limit(tolerance: float | str, member: Member, value: np.ndarray) -> float:
    """Return the largest difference between weights of equal channels."""
    if isinstance(tolerance, str):
        double = (
            keras.backend.standardize_dtype(member.variable.dtype) == "float64"
        )
        tolerance = ROUNDING["float64" if double else "float32"]
    return tolerance * _largest(value)


def _largest(value: np.ndarray) -> float:
    """Return the largest absolute value, without copying the array."""
    return float(max(value.max(initial=0), -value.min(initial=0)))


def _effective(member: Member, wrappers: dict[int, FilterMask]) -> np.ndarray:
    """Return the value of a member's variable with attenuation factors folded in."""
    wrapper = wrappers.get(id(member.layer))
    if wrapper is not None:
        for n, weight in enumerate(member.layer.weights):
            if weight is member.variable:
                return wrapper.folded(n)
    return read(member.variable)


def _near(
    value: np.ndarray, member: Member, channels: np.ndarray, limit: float
) -> list[np.ndarray]:
    """Split `channels` into sets of two or more within `limit` of their first."""
    suspects = channels[_close_pairs(value, member, channels, limit)]
    if not suspects.size:
        return []
    rows = np.moveaxis(value, member.axis, 0)[member.index[suspects]]
    rows = rows.reshape(suspects.size, -1).astype("float64")
    free = np.ones(suspects.size, dtype=bool)
    parts = []
    for first in range(suspects.size):
        if not free[first]:
            continue
        gaps = np.abs(rows - rows[first]).max(axis=1, initial=0)
        part = np.flatnonzero(free & (gaps <= limit))
        free[part] = False
        if part.size > 1:
            parts.append(suspects[part])
    return parts


def _close_pairs(
    value: np.ndarray, member: Member, channels: np.ndarray, limit: float
) -> np.ndarray:
    """Return a boolean per channel: whether it may be close to another one.

    Close channels have close projections of any subset of their weights on any
    direction. Few other channels do on all of `PROJECTIONS` directions.
    """
    rng = np.random.default_rng(0)
    flat = np.moveaxis(value, member.axis, -1)
    flat = flat.reshape(-1, flat.shape[-1])
    if flat.shape[0] > SAMPLE:
        flat = flat[rng.choice(flat.shape[0], SAMPLE, replace=False)]
    index = member.index[channels]
    signs = rng.choice([-1.0, 1.0], (PROJECTIONS, flat.shape[0]))
    # Projections of each position, then of the positions of each channel.
    single = signs @ flat.astype("float64")
    turns = rng.choice([-1.0, 1.0], (PROJECTIONS, 1, index.shape[1]))
    points = (single[:, index] * turns).sum(axis=-1)
    count = flat.shape[0] * index.shape[1]
    reach = count * (limit + 1e-15 * _largest(flat))
    order = np.argsort(points[0], kind="stable")
    points = points[:, order]
    found = np.zeros(channels.size, dtype=bool)
    for step in range(1, channels.size):
        gaps = np.abs(points[:, step:] - points[:, :-step]) <= reach
        if not gaps[0].any():
            break
        pairs = np.flatnonzero(gaps.all(axis=0))
        found[order[pairs]] = found[order[pairs + step]] = True
    return found
