"""Masks of a few groups, set for a moment: what trials of removals need."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from kprune.graph.channel_graph import ChannelGraph
from kprune.graph.tracer import trace
from kprune.masking.filter_mask import FilterMask
from kprune.masking.places import MaskPlace
from kprune.masking.places import mask_places
from kprune.masking.wrapping import check_vector
from kprune.masking.wrapping import group_vector
from kprune.masking.wrapping import require_masked
from kprune.masking.wrapping import wrappers_by_layer


class TemporaryMasks:
    """Masks some groups at all their members, and puts back what was there.

    `kprune.set_masks` reads and writes the masks of the whole model; this
    touches those of the given groups alone, and is meant to be called often.
    Attenuation factors stay as they are.

    Args:
        masked: A model made by `kprune.wrap`.
        graph: `kprune.trace(masked)`, if you have it already.

    Example:

    ```python
    temporary = TemporaryMasks(masked)
    with temporary({"conv1": [1, 0, 1, 1]}):
        loss = masked.evaluate(x, y)
    ```
    """

    def __init__(
        self, masked: keras.Model, graph: ChannelGraph | None = None
    ) -> None:
        require_masked(masked)
        self._graph = graph or trace(masked)
        self._wrappers = wrappers_by_layer(masked)
        # By group name, the masks of its channels, and the groups on them.
        self._places: dict[str, list[MaskPlace]] = {}
        self._neighbours: dict[str, set[str]] = {}
        for group in self._graph.prunable:
            self._places[group.name] = []
            self._neighbours[group.name] = {group.name}
        for place in mask_places(self._graph, self._wrappers):
            groups = self._graph.groups_on(place.labels)
            names = [g.name for g in groups if g.pinned is None]
            for name in names:
                self._places[name].append(place)
                self._neighbours[name].update(names)

    def layers(self, name: str) -> list[FilterMask]:
        """Return the wrappers whose masks change with those of a group."""
        return list(
            dict.fromkeys(place.wrapper for place in self._places[name])
        )

    @contextlib.contextmanager
    def __call__(self, masks: Mapping[str, Any]) -> Iterator[None]:
        """Return a context in which these masks hold.

        Args:
            masks: Group name -> vector of shape `(group.size,)`, 0 = removed.
                Groups left out stay as they are.

        Raises:
            ValueError: If a name is not a prunable group, a vector has the wrong
                shape or values, or a group would keep no channel at all.
        """
        vectors = {
            name: check_vector(self._graph, name, value)
            for name, value in masks.items()
        }
        places = list(
            dict.fromkeys(
                place for name in vectors for place in self._places[name]
            )
        )
        alive, untouched = self._by_class(vectors)
        # Copies: on some backends what is read is a view of the variable.
        before = [np.array(place.read()) for place in places]
        try:
            for place, value in zip(places, before, strict=True):
                mask = self._graph.project(place.labels, alive)
                stays = self._graph.project(place.labels, untouched)
                place.write(np.where(stays, value, mask))
            yield
        finally:
            for place, value in zip(places, before, strict=True):
                place.write(value)

    def _by_class(
        self, vectors: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return what is alive, and whose masks stay as they are.

        Args:
            vectors: Masks by group name.

        Returns:
            Two arrays `(classes,)`. The first is 0 or 1, and right for every
            group on the axes of the named ones; the second is False for the
            channels of the named groups.
        """
        current = {
            name: group_vector(self._graph[name], self._wrappers)
            for named in vectors
            for name in self._neighbours[named] - set(vectors)
        }
        values = self._graph.spread({**current, **vectors})
        named = {name: np.zeros(len(v), bool) for name, v in vectors.items()}
        return values > 0, self._graph.spread(named, fill=True)
