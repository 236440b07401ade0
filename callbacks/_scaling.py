"""In-place scaling of whole channels."""

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
from kprune.masking.slots import edited_slots

TARGETS = ("bn", "scale", "kernel")


class Scaler:
    """Multiplies the weights that produce channels by a factor.

    Args:
        masked: A model made by `kprune.wrap`.
        graph: `kprune.trace(masked)`.
        target: `"kernel"`: the filters and biases of all producers. `"bn"`: scale
            and offset of every BatchNormalization that the channels pass,
            constants that layers in between add, and filters and biases of
            producers with a path around all of these. `"scale"`: like `"bn"`, but
            without offsets and constants.
    """

    def __init__(
        self, masked: keras.Model, graph: ChannelGraph, target: str
    ) -> None:
        self._masked = masked
        paths = norm_paths(graph, is_scaled_norm)
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

    def scale(
        self,
        factors: Mapping[str, np.ndarray],
        slots: bool,
        optimizer: Any = None,
    ) -> None:
        """Scale channels in place, and copies of their weights in the optimizer.

        Args:
            factors: See `scaled`.
            slots: Whether to scale the optimizer's other slots of the weights too.
            optimizer: The optimizer. Defaults to that of the model.
        """
        memory = edited_slots(self._masked, optimizer, slots)
        for variable, places in self._places(factors):
            for target in [variable, *memory.get(id(variable), {}).values()]:
                target.assign(_multiplied(target, places))

    def scaled(
        self, factors: Mapping[str, np.ndarray]
    ) -> list[tuple[Any, np.ndarray]]:
        """Return the changes that `scale` would make.

        Args:
            factors: Group name -> factors of shape `(size,)`; 1 does not change a
                channel.

        Returns:
            Pairs of a variable and its new value.
        """
        return [(v, _multiplied(v, at)) for v, at in self._places(factors)]

    def _places(
        self, factors: Mapping[str, np.ndarray]
    ) -> list[tuple[Any, dict[int, np.ndarray]]]:
        """Return each variable that changes, with its factors by axis."""
        # Keyed by variable and axis, so that shared layers are scaled only once.
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
    """Return the scales, and with `"bn"` the offsets, that channels pass."""
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
