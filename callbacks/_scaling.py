"""Scales whole channels in place, where a mask would set them to 0."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from kprune.graph import ChannelGraph
from kprune.graph.channel_graph import Group
from kprune.graph.channel_graph import Member
from kprune.graph.norms import is_scaled_norm
from kprune.graph.norms import norm_paths
from kprune.graph.values import read
from kprune.masking.slots import slots_by_variable

TARGETS = ("bn", "scale", "kernel")


class Scaler:
    """Multiplies what makes up channels by a factor, at all their producers.

    Args:
        masked: A model made by `kprune.wrap`.
        graph: `kprune.trace(masked)`.
        target: `"kernel"`: the filters and biases of all producers. `"bn"`:
            scale and offset of every BatchNormalization that the channels
            pass, and filters and biases of the producers that some way leads
            past these; with both, constants that layers in between add.
            `"scale"`: as `"bn"`, but offsets and constants stay.
    """

    def __init__(
        self, masked: keras.Model, graph: ChannelGraph, target: str
    ) -> None:
        self._masked = masked
        paths = norm_paths(graph)
        self._members: dict[str, list[Member]] = {}
        self.normed: list[str] = []
        for group in graph.prunable:
            scales = _norm_members(group, target)
            chosen = list(group.producers)
            if any(is_scaled_norm(m.layer) for m in group.scales):
                self.normed.append(group.name)
            if any(is_scaled_norm(m.layer) for m in scales):
                bare = {
                    layer
                    for layer, path in paths.items()
                    if path.bare or not path.norms
                }
                chosen = [m for m in chosen if id(m.layer) in bare]
            self._members[group.name] = [*chosen, *scales]

    def scale(self, factors: Mapping[str, np.ndarray], slots: bool) -> None:
        """Scale channels in place.

        Args:
            factors: See `scaled`.
            slots: Scale the optimizer's slots of the same weights too.
        """
        memory = slots_by_variable(self._masked) if slots else {}
        for variable, places in self._places(factors):
            for target in [variable, *memory.get(id(variable), {}).values()]:
                target.assign(_multiplied(target, places))

    def scaled(
        self, factors: Mapping[str, np.ndarray]
    ) -> list[tuple[Any, np.ndarray]]:
        """Return what `scale` would write, as pairs of a variable and a value.

        Args:
            factors: For each group's name a vector `(size,)` to multiply with;
                1 leaves a channel untouched.
        """
        return [(v, _multiplied(v, at)) for v, at in self._places(factors)]

    def _places(
        self, factors: Mapping[str, np.ndarray]
    ) -> list[tuple[Any, dict[int, np.ndarray]]]:
        """Return for each variable that changes, by axis, what to multiply with."""
        # By variable and axis: a layer that is shared has its channels once.
        places: dict[int, dict[int, np.ndarray]] = {}
        variables: dict[int, Any] = {}
        for name, wanted in factors.items():
            chosen = wanted != 1
            if not chosen.any():
                continue
            for member in self._members[name]:
                variable = member.variable
                variables[id(variable)] = variable
                axes = places.setdefault(id(variable), {})
                vector = axes.setdefault(
                    member.axis, np.ones(variable.shape[member.axis])
                )
                rows = member.index[chosen]
                vector[rows.ravel()] = np.repeat(
                    wanted[chosen], rows.size // len(rows)
                )
        return [(variables[key], axes) for key, axes in places.items()]


def _norm_members(group: Group, target: str) -> list[Member]:
    """Return what scales a channel behind its producers, and what is added to it."""
    added = ("bias", "beta") if target == "bn" else ()
    if target == "kernel":
        return []
    return [
        m
        for m in group.scales
        if m.name in added or (m.name == "gamma" and is_scaled_norm(m.layer))
    ]


def _multiplied(variable: Any, vectors: Mapping[int, np.ndarray]) -> np.ndarray:
    value = np.array(read(variable))
    for axis, vector in vectors.items():
        shape = [1] * value.ndim
        shape[axis] = -1
        value = (value * vector.reshape(shape)).astype(value.dtype)
    return value
