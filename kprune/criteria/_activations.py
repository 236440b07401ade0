"""Base classes of criteria based on activations."""

from __future__ import annotations

import abc
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from keras import ops

from kprune.arguments import count_or_all
from kprune.criteria.base import Criterion
from kprune.criteria.base import Scores
from kprune.criteria.base import by_length_elsewhere
from kprune.criteria.base import describe
from kprune.criteria.base import required
from kprune.data.arrays import count
from kprune.data.arrays import cut
from kprune.data.needs import require_data
from kprune.masking import filter_masks

if TYPE_CHECKING:
    from kprune.graph import Group
    from kprune.graph import Member
    from kprune.session import Session


class ActivationCriterion(Criterion):
    """Base class of criteria that average a statistic of activations.

    Activations are taken where consumers read them, and averaged over samples,
    positions and consumers.

    Args:
        steps: Number of batches to use; `None` for all.
    """

    decides_by = ("activations",)

    def __init__(self, steps: int | None = None) -> None:
        self.steps = count_or_all(
            steps, type(self).__name__, "steps", "batches"
        )

    @abc.abstractmethod
    def statistic(self, activations: Any) -> Any:
        """Return the elementwise statistic to average."""

    def check(self, session: Session | None) -> None:
        require_data(session, f"Criterion {describe(self)}")

    def scores(
        self, groups: Sequence[Group], session: Session | None
    ) -> Scores:
        observers = self._observe(groups, session)
        scores = {}
        for group in groups:
            seen = [
                observers[id(m.layer)].channels(m, axis)
                for m, axis in _readers(group)
                if id(m.layer) in observers
            ]
            if seen:
                scores[group.name] = np.mean(seen, axis=0)
        return by_length_elsewhere(
            scores,
            groups,
            describe(self),
            "no layer that reads their activations",
        )

    def _observe(
        self, groups: Sequence[Group], session: Any
    ) -> dict[int, _Observer]:
        """Run the model on the data and return observers by `id(layer)`."""
        axes: dict[int, set[int]] = {}
        for group in groups:
            for member, axis in _readers(group):
                axes.setdefault(id(member.layer), set()).add(axis)
        observers = {
            layer: _Observer(self.statistic, found)
            for layer, found in axes.items()
        }
        batches = (x for x, _, _ in session.samples.batches(self.steps))
        _watch(session.masked, observers, batches)
        return {key: seen for key, seen in observers.items() if seen.called}


class MapCriterion(Criterion):
    """Base class of criteria that measure the feature maps of each sample.

    Feature maps are taken where consumers read them. The scores are means over
    samples and consumers.

    Args:
        samples: Number of samples to use, from the start; `None` for all.
    """

    decides_by = ("activations",)

    def __init__(self, samples: int | None) -> None:
        self.samples = count_or_all(
            samples, type(self).__name__, "samples", "samples"
        )

    @abc.abstractmethod
    def measure(self, maps: np.ndarray) -> np.ndarray:
        """Return a number for each feature map.

        Args:
            maps: float64 array of shape `(samples, size, ...)`: the maps of a
                group's channels over all positions.

        Returns:
            Array of shape `(samples, size)`.
        """

    def combine(self, values: np.ndarray) -> np.ndarray:
        """Return scores of shape `(size,)` from the results of `measure`."""
        return values.mean(axis=0)

    def check(self, session: Session | None) -> None:
        require_data(session, f"Criterion {describe(self)}")

    def scores(
        self, groups: Sequence[Group], session: Session | None
    ) -> Scores:
        session = required(session, self)
        readings: dict[int, list[_Reading]] = {}
        of_group: dict[str, list[_Reading]] = {}
        for group in groups:
            for member, axis in _readers(group):
                reading = _Reading(self.measure, member, axis)
                readings.setdefault(id(member.layer), []).append(reading)
                of_group.setdefault(group.name, []).append(reading)
        observers = {layer: _Each(found) for layer, found in readings.items()}
        _watch(session.masked, observers, self._batches(session))
        scores = {}
        for name, found in of_group.items():
            seen = [np.concatenate(r.values) for r in found if r.values]
            if seen:
                scores[name] = np.mean([self.combine(v) for v in seen], axis=0)
        return by_length_elsewhere(
            scores,
            groups,
            describe(self),
            "no layer that reads their activations",
        )

    def _batches(self, session: Session) -> Iterator[Any]:
        left = self.samples
        for x, _, _ in session.samples.batches():
            if left is not None:
                x = cut(x, 0, left)
                left -= count(x)
            yield x
            if left == 0:
                return


class _Reading:
    """Collects measurements of one group's channels at the input of one layer."""

    def __init__(self, measure: Any, member: Member, axis: int) -> None:
        self._measure = measure
        self._member = member
        self._axis = axis
        self.values: list[np.ndarray] = []

    def __call__(self, inputs: np.ndarray) -> None:
        # After a Flatten, the features of a channel are its positions.
        maps = np.moveaxis(inputs, self._axis, 1)[:, self._member.index]
        if maps.shape[2] == 1:
            maps = maps[:, :, 0]
        self.values.append(self._measure(maps))


class _Each:
    """Passes a layer's input to several readings."""

    def __init__(self, readings: list[_Reading]) -> None:
        self._readings = readings

    def __call__(self, inputs: Any) -> None:
        first = ops.cast(keras.tree.flatten(inputs)[0], "float32")
        values = ops.convert_to_numpy(first).astype("float64")
        for reading in self._readings:
            reading(values)


def _watch(
    masked: keras.Model,
    observers: Mapping[int, Any],
    batches: Iterable[Any],
) -> None:
    """Run a model while observers receive the inputs of layers.

    Args:
        masked: The model.
        observers: `id(layer)` -> function of the layer's inputs.
        batches: Inputs of the model.
    """
    wrappers = [w for w in filter_masks(masked) if id(w.layer) in observers]
    try:
        for wrapper in wrappers:
            wrapper.observer = observers[id(wrapper.layer)]
        for x in batches:
            masked(x, training=False)
    finally:
        for wrapper in wrappers:
            wrapper.observer = None


class _Observer:
    """Running means of a statistic of one layer's input, along some axes."""

    def __init__(self, statistic: Any, axes: set[int]) -> None:
        self._statistic = statistic
        self._sums: dict[int, Any] = dict.fromkeys(axes, 0.0)
        self._counts = dict.fromkeys(axes, 0)

    @property
    def called(self) -> bool:
        return all(self._counts.values())

    def __call__(self, inputs: Any) -> None:
        first = keras.tree.flatten(inputs)[0]
        # float16 sums overflow.
        values = self._statistic(ops.cast(first, "float32"))
        for axis in self._sums:
            others = [a for a in range(values.ndim) if a != axis % values.ndim]
            total = ops.convert_to_numpy(ops.sum(values, axis=others))
            self._sums[axis] = self._sums[axis] + total.astype("float64")
            self._counts[axis] += int(
                np.prod([values.shape[a] for a in others])
            )

    def channels(self, member: Member, axis: int) -> np.ndarray:
        """Return the means of a group's channels, of shape `(group.size,)`."""
        means = self._sums[axis] / self._counts[axis]
        return means[member.index].mean(axis=1)


def _readers(group: Group) -> list[tuple[Member, int]]:
    """Return the members that read the channels, with the axis of their input."""
    readers = [
        (member, member.feature_axis)
        for member in group.consumers
        if member.feature_axis is not None
    ]
    hidden = {id(m.layer) for m in group.consumers if m.feature_axis is None}
    # A separable convolution reads the channels with its depthwise kernel.
    for member in group.scales:
        axis = _input_axis(member)
        if id(member.layer) in hidden and axis is not None:
            readers.append((member, axis))
    return readers


def _input_axis(member: Member) -> int | None:
    """Return the input axis on which the layer expects these channels, or None."""
    axes = getattr(member.layer.input_spec, "axes", None) or {}
    size = member.variable.shape[member.axis]
    return next((axis for axis, length in axes.items() if length == size), None)
