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

TARGETS = ("bn", "kernel")


class Scaler:
    """Multiplies what makes up channels by a factor, at all their producers.

    Args:
        masked: A model made by `kprune.wrap`.
        graph: `kprune.trace(masked)`.
        target: `"kernel"`: the filters and biases of all producers. `"bn"`:
            scale and offset of every BatchNormalization that the channels
            pass, and filters and biases of the producers that some way leads
            past these; with both, constants that layers in between add.
    """

    def __init__(
        self, masked: keras.Model, graph: ChannelGraph, target: str
    ) -> None:
        self._masked = masked
        paths = norm_paths(graph)
        self._members: dict[str, list[Member]] = {}
        self.normed: list[str] = []
        for group in graph.prunable:
            scales = _norm_members(group) if target == "bn" else []
            chosen = list(group.producers)
            if any(is_scaled_norm(m.layer) for m in scales):
                self.normed.append(group.name)
                bare = {
                    layer
                    for layer, path in paths.items()
                    if path.bare or not path.norms
                }
                chosen = [m for m in chosen if id(m.layer) in bare]
            self._members[group.name] = [*chosen, *scales]

    def scale(
        self, weak: Mapping[str, np.ndarray], factor: float, slots: bool
    ) -> None:
        """Scale the channels of `weak` in place.

        Args:
            weak: For each group's name booleans `(size,)`.
            factor: What to multiply with; 1 leaves all untouched.
            slots: Scale the optimizer's slots of the same weights too.
        """
        if factor == 1:
            return
        # By variable and axis: a layer that is shared has its channels once.
        places: dict[int, dict[int, np.ndarray]] = {}
        variables: dict[int, Any] = {}
        for name, chosen in weak.items():
            if not chosen.any():
                continue
            for member in self._members[name]:
                variable = member.variable
                variables[id(variable)] = variable
                axes = places.setdefault(id(variable), {})
                vector = axes.setdefault(
                    member.axis, np.ones(variable.shape[member.axis])
                )
                vector[member.index[chosen].ravel()] = factor
        memory = slots_by_variable(self._masked) if slots else {}
        for key, variable in variables.items():
            for target in [variable, *memory.get(key, {}).values()]:
                _multiply(target, places[key])


def _norm_members(group: Group) -> list[Member]:
    """Return what scales a channel behind its producers, and what is added to it."""
    return [
        m
        for m in group.scales
        if m.name in ("bias", "beta")
        or (m.name == "gamma" and is_scaled_norm(m.layer))
    ]


def _multiply(variable: Any, vectors: Mapping[int, np.ndarray]) -> None:
    value = np.array(read(variable))
    for axis, vector in vectors.items():
        shape = [1] * value.ndim
        shape[axis] = -1
        value = (value * vector.reshape(shape)).astype(value.dtype)
    variable.assign(value)
