"""Masks of a few groups, set for a moment: what trials of removals need."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any
from typing import NamedTuple

import keras
import numpy as np

from kprune.graph.channel_graph import ChannelGraph
from kprune.graph.tracer import trace
from kprune.masking.wrapping import check_vector
from kprune.masking.wrapping import group_vector
from kprune.masking.wrapping import require_masked
from kprune.masking.wrapping import wrappers_by_layer


class _Place(NamedTuple):
    """One mask variable, and the classes of the channels it masks.

    There are several class arrays where two axes were flattened to one: what
    is removed in either is masked. `groups` names the prunable groups there.
    """

    read: Callable[[], Any]
    write: Callable[[Any], None]
    classes: list[np.ndarray]
    groups: list[str]


class TemporaryMasks:
    """Masks some groups at all their members, and puts back what was there.

    `kprune.set_masks` reads and writes the masks of the whole model; this
    touches those of the given groups alone, and is meant to be called often.
    Attenuation factors stay as they are.

    Args:
        masked: A model made by `kprune.wrap`.
        graph: `kprune.trace(masked)`, if it is at hand already.

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
        self._places: dict[str, list[_Place]] = {
            group.name: [] for group in self._graph.prunable
        }
        for place in self._all_places():
            for name in place.groups:
                self._places[name].append(place)

    @contextlib.contextmanager
    def __call__(self, masks: Mapping[str, Any]) -> Iterator[None]:
        """Context in which these masks hold.

        Args:
            masks: Group name -> vector of shape `(group.size,)`, 0 = removed.
                Groups left out stay as they are.

        Raises:
            ValueError: If a name is no prunable group, a vector has the wrong
                shape or values, or a group would keep no channel at all.
        """
        vectors = {
            name: check_vector(self._graph, name, value)
            for name, value in masks.items()
        }
        places = list({
            id(p): p for name in vectors for p in self._places[name]
        }.values())  # fmt: skip
        alive, ours = self._alive(places, vectors)
        # Copies: on some backends what is read is a view of the variable.
        before = [np.array(place.read()) for place in places]
        try:
            for place, value in zip(places, before, strict=True):
                mask = np.prod([alive[c] for c in place.classes], axis=0)
                changed = np.any([ours[c] for c in place.classes], axis=0)
                place.write(np.where(changed, mask, value))
            yield
        finally:
            for place, value in zip(places, before, strict=True):
                place.write(value)

    def _alive(
        self, places: list[_Place], vectors: dict[str, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """By class: 0 or 1, right for all that the places show; who is named."""
        count = int(self._graph.classes.max()) + 1
        alive, ours = np.ones(count, dtype="float32"), np.zeros(count, bool)
        names = {name for place in places for name in place.groups}
        for name in names:
            group = self._graph[name]
            vector = vectors.get(name)
            if vector is None:
                vector = group_vector(group, self._wrappers)
            else:
                ours[group.classes] = True
            alive[group.classes] = vector > 0
        return alive, ours

    def _all_places(self) -> Iterator[_Place]:
        for binding in self._graph.bindings.values():
            wrapper = self._wrappers.get(id(binding.layer))
            for axis, bound in binding.axes.items():
                at = (binding.variable, axis)
                if wrapper is None or wrapper.axis_mask(*at) is None:
                    continue
                yield _Place(
                    functools.partial(wrapper.axis_mask, *at),
                    functools.partial(wrapper.set_axis_mask, *at),
                    *self._shown(bound.labels),
                )
        for need in self._graph.tracer.ledger.needs.values():
            wrapper = self._wrappers.get(id(need.layer))
            if wrapper is None:
                continue
            if (id(need.layer), need.name) in wrapper.masked_axes():
                yield _Place(
                    functools.partial(wrapper.tensor_mask, need.name),
                    functools.partial(wrapper.set_tensor_mask, need.name),
                    *self._shown(need.labels),
                )

    def _shown(
        self, labels: list[np.ndarray]
    ) -> tuple[list[np.ndarray], list[str]]:
        """Classes of label arrays, and the prunable groups they belong to."""
        classes = [self._graph.classes[array] for array in labels]
        numbers = np.unique(self._graph.group_of[np.concatenate(classes)])
        groups = [self._graph.groups[n] for n in numbers if n >= 0]
        return classes, [g.name for g in groups if g.pinned is None]
