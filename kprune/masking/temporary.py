"""Temporary masks for a few groups, for trial removals."""

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
    """Sets the masks of some groups temporarily, and restores them afterwards.

    Unlike `kprune.set_masks`, which reads and writes the masks of the whole
    model, this touches only the given groups, so it is cheap to call often.
    Attenuation factors do not change.

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
        # Group name -> masks with its channels, and -> groups on these masks.
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
        """Return the wrappers with masks of a group."""
        return list(
            dict.fromkeys(place.wrapper for place in self._places[name])
        )

    @contextlib.contextmanager
    def __call__(self, masks: Mapping[str, Any]) -> Iterator[None]:
        """Return a context in which these masks are set.

        Args:
            masks: Group name -> vector of shape `(group.size,)`, 0 = removed.
                Groups left out keep their masks.

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
        # Copied, because on some backends the mask is a view of the variable.
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
        """Return which classes are alive, and which keep their masks.

        Args:
            vectors: Group name -> mask.

        Returns:
            Two boolean arrays of shape `(classes,)`. The first says which
            channels are alive, and is valid for all groups that share an axis
            with the named ones. The second is False for the channels of the
            named groups.
        """
        current = {
            name: group_vector(self._graph[name], self._wrappers)
            for named in vectors
            for name in self._neighbours[named] - set(vectors)
        }
        values = self._graph.spread({**current, **vectors})
        named = {name: np.zeros(len(v), bool) for name, v in vectors.items()}
        return values > 0, self._graph.spread(named, fill=True)
