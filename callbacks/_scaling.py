"""In-place scaling of whole channels."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from kprune.graph import ChannelGraph
from kprune.graph.call import FILTER
from kprune.graph.call import SCALE
from kprune.graph.channel_graph import Member
from kprune.graph.norms import acting_layers
from kprune.graph.registry import batch_norm_of
from kprune.graph.values import read
from kprune.masking.slots import edited_slots

TARGETS = ("bn", "scale", "kernel")


class Scaler:
    """Multiplies the weights that determine how large channels are by a factor.

    Args:
        masked: A model made by `kprune.wrap`.
        graph: `kprune.trace(masked)`.
        target: `"kernel"`: the filters and biases of producers. `"bn"`: of each path
            from a producer to a reader, scale and offset of the last
            BatchNormalization and constants that layers behind it add, or filters
            and biases of the producer if there is none. If some such
            BatchNormalization has no scale: what all readers multiply the channels
            with. `"scale"`: like `"bn"`, but without offsets and constants. Gates
            that channels are multiplied with are never scaled; see
            `kprune.graph.norms.acting_layers`.

    Attributes:
        normed: Names of the groups with a BatchNormalization.
        read: Names of those that are scaled where they are read.
    """

    def __init__(
        self, masked: keras.Model, graph: ChannelGraph, target: str
    ) -> None:
        self._masked = masked
        self._members: dict[str, list[Member]] = {}
        self.normed: list[str] = []
        self.read: list[str] = []
        acting = acting_layers(graph, norms=target != "kernel")
        for group in graph.prunable:
            if any(batch_norm_of(m.layer) for m in group.members):
                self.normed.append(group.name)
            members = [m for m in group.members if id(m.layer) in acting.layers]
            if target != "kernel" and _lacks_scale(members) and group.consumers:
                self.read.append(group.name)
                self._members[group.name] = list(group.consumers)
                continue
            self._members[group.name] = [
                m
                for m in members
                if (m.role == FILTER and id(m.layer) not in acting.passing)
                or _is_scale(m, target)
            ]

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


def _lacks_scale(members: Iterable[Member]) -> bool:
    """Return whether a BatchNormalization without a scale is among the layers."""
    norms = [batch_norm_of(m.layer) for m in members]
    return any(n is not None and n.gamma is None for n in norms)


def _is_scale(member: Member, target: str) -> bool:
    """Return whether what channels pass is a scale, or with `"bn"` an offset."""
    if member.role == FILTER:  # of a layer that passes channels on
        return member.name == "bias" and target != "scale"
    if member.role != SCALE or target == "kernel":
        return False
    if member.name == "gamma":
        return batch_norm_of(member.layer) is not None
    return target == "bn" and member.name in ("bias", "beta")


def _multiplied(variable: Any, vectors: Mapping[int, np.ndarray]) -> np.ndarray:
    value = np.array(read(variable))
    for axis, vector in vectors.items():
        shape = [1] * value.ndim
        shape[axis] = -1
        value = (value * vector.reshape(shape)).astype(value.dtype)
    return value
