"""Masks and factors of a wrapped layer, by variable and axis."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import keras
import numpy as np

from kprune.graph.values import read


class AxisVectors:
    """Reads and sets the vectors of a `FilterMask`.

    Attributes:
        layer: The wrapped layer.
        name: The wrapper's name.
    """

    layer: keras.layers.Layer
    name: str
    # Keyed by `(index of the weight, axis)`.
    _masks: MutableMapping[tuple[int, int], keras.Variable]
    _factors: MutableMapping[tuple[int, int], keras.Variable]
    _attenuations: MutableMapping[tuple[int, int], keras.Variable]
    _tensor_masks: MutableMapping[str, keras.Variable]

    def axis_mask(
        self, variable: keras.Variable, axis: int
    ) -> np.ndarray | None:
        """Return the mask on one axis of one variable of the layer, or None."""
        mask = self._masks.get((self._index(variable), axis))
        return None if mask is None else read(mask)

    def set_axis_mask(
        self, variable: keras.Variable, axis: int, value: Any
    ) -> None:
        """Set the mask on one axis of one variable of the layer."""
        self._masks[self._index(variable), axis].assign(value)

    def axis_factor(
        self, variable: keras.Variable, axis: int
    ) -> np.ndarray | None:
        """Return the factor on one axis of one variable of the layer, or None."""
        factor = self._factors.get((self._index(variable), axis))
        return None if factor is None else read(factor)

    def set_axis_factor(
        self, variable: keras.Variable, axis: int, value: Any
    ) -> None:
        """Set the factor on one axis of one variable of the layer."""
        self._factors[self._index(variable), axis].assign(value)

    def axis_attenuation(
        self, variable: keras.Variable, axis: int
    ) -> np.ndarray | None:
        """Return the recorded attenuation of a variable's axis, or None."""
        vector = self._attenuations.get((self._index(variable), axis))
        return None if vector is None else read(vector)

    def set_axis_attenuation(
        self, variable: keras.Variable, axis: int, value: Any
    ) -> None:
        """Record the attenuation of the filters on a variable's axis."""
        self._attenuations[self._index(variable), axis].assign(value)

    def tensor_mask(self, name: str) -> np.ndarray:
        """Return the mask of the tensor axis that the layer's rule calls `name`."""
        return read(self._tensor_masks[name])

    def set_tensor_mask(self, name: str, value: Any) -> None:
        """Set the mask of the tensor axis that the layer's rule calls `name`."""
        self._tensor_masks[name].assign(value)

    def _index(self, variable: keras.Variable) -> int:
        for n, weight in enumerate(self.layer.weights):
            if weight is variable:
                return n
        raise ValueError(
            f"'{variable.path}' is not a weight of layer '{self.name}'."
        )
