"""Layers that are one matrix times what they read."""

from __future__ import annotations

import abc
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import layers

from kprune.graph.registry import is_linear
from kprune.masking import FilterMask

CHUNK = 16_384
"""Rows that are looked at together."""

COLUMNS = 6000
"""Widest matrix that is fitted: time grows with the cube of it."""


class Linear(abc.ABC):
    """A layer as `rows (r, columns) @ matrix (columns, filters)`.

    The columns of an input channel stand side by side: those of channel `c`
    are `c * per_channel` to `(c + 1) * per_channel`.

    Args:
        layer: The layer.
    """

    def __init__(self, layer: Any) -> None:
        self.layer = layer

    @property
    @abc.abstractmethod
    def kernel(self) -> keras.Variable:
        """The variable that holds the matrix."""

    @property
    @abc.abstractmethod
    def per_channel(self) -> int:
        """Columns of each input channel."""

    @abc.abstractmethod
    def rows(self, inputs: np.ndarray, which: np.ndarray) -> np.ndarray:
        """Return some of the rows: `(which, columns)`."""

    @abc.abstractmethod
    def results(self, outputs: np.ndarray) -> np.ndarray:
        """Return an array of the layer's outputs as `(all rows, filters)`."""

    @abc.abstractmethod
    def to_matrix(self, kernel: np.ndarray) -> np.ndarray:
        """Return the kernel as a matrix `(columns, filters)`."""

    @abc.abstractmethod
    def to_kernel(self, matrix: np.ndarray) -> np.ndarray:
        """Return a matrix `(columns, filters)` as a kernel."""

    @property
    def channels(self) -> int:
        """Input channels."""
        return int(self.kernel.shape[-2])

    @property
    def columns(self) -> int:
        """Columns of the matrix."""
        return self.channels * self.per_channel

    def chunks(
        self, inputs: np.ndarray, total: int, limit: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield `(rows, places of the rows)`, at most `limit` of `total` rows.

        Which ones are taken is random, but the same each time.
        """
        which = np.arange(total)
        if total > limit:
            rng = np.random.default_rng(0)
            which = np.sort(rng.choice(total, limit, replace=False))
        for start in range(0, len(which), CHUNK):
            some = which[start : start + CHUNK]
            yield self.rows(inputs, some), some


_kinds: dict[type, type[Linear]] = {}


def living(operation: Any, view: Linear) -> tuple[np.ndarray, np.ndarray]:
    """Return which input channels and which filters of a layer live.

    Args:
        operation: The layer, or the `FilterMask` around it.
        view: The layer as a matrix.

    Returns:
        Booleans `(channels,)` and `(filters,)`.
    """
    rank = len(view.kernel.shape)
    masks = []
    for axis in (rank - 2, rank - 1):
        mask = None
        if isinstance(operation, FilterMask):
            mask = operation.axis_mask(view.kernel, axis)
        size = view.kernel.shape[axis]
        masks.append(np.ones(size, bool) if mask is None else mask > 0)
    return masks[0], masks[1]


def register(*classes: type) -> Callable[[type[Linear]], type[Linear]]:
    """Return a decorator that makes a `Linear` the view of layer classes."""

    def decorator(kind: type[Linear]) -> type[Linear]:
        for cls in classes:
            _kinds[cls] = kind
        return kind

    return decorator


def linear(layer: Any) -> Linear | None:
    """Return a layer as a matrix, up to its activation, or None.

    None is a layer of another kind, and one whose matrix is not its kernel:
    grouped convolutions, LoRA, quantised weights. A subclass is like its
    parent if its rule says that it is linear.
    """
    if not is_linear(layer):
        return None
    kind = next((_kinds[c] for c in type(layer).__mro__ if c in _kinds), None)
    if kind is None:
        return None
    if getattr(layer, "groups", 1) != 1 or getattr(
        layer, "lora_enabled", False
    ):
        return None
    if getattr(layer, "quantization_mode", None):
        return None
    return kind(layer)


@register(layers.Dense)
class DenseMatrix(Linear):
    """A Dense layer on inputs of any rank."""

    @property
    def kernel(self) -> keras.Variable:
        return self.layer._kernel

    @property
    def per_channel(self) -> int:
        return 1

    def rows(self, inputs: np.ndarray, which: np.ndarray) -> np.ndarray:
        return inputs.reshape(-1, inputs.shape[-1])[which]

    def results(self, outputs: np.ndarray) -> np.ndarray:
        return outputs.reshape(-1, outputs.shape[-1])

    def to_matrix(self, kernel: np.ndarray) -> np.ndarray:
        return kernel

    def to_kernel(self, matrix: np.ndarray) -> np.ndarray:
        return matrix


@register(layers.Conv1D, layers.Conv2D, layers.Conv3D)
class ConvolutionMatrix(Linear):
    """A convolution: one row for each place of the output."""

    @property
    def kernel(self) -> keras.Variable:
        return self.layer._kernel

    @property
    def per_channel(self) -> int:
        return int(np.prod(self.layer.kernel_size))

    def rows(self, inputs: np.ndarray, which: np.ndarray) -> np.ndarray:
        layer = self.layer
        if layer.data_format == "channels_first":
            inputs = np.moveaxis(inputs, 1, -1)
        sizes = inputs.shape[1:-1]
        reach = [
            (k - 1) * d + 1
            for k, d in zip(layer.kernel_size, layer.dilation_rate, strict=True)
        ]
        pads, shape = self._padding(sizes, reach)
        first = int(which[0] // np.prod(shape))
        last = int(which[-1] // np.prod(shape)) + 1
        # Only the samples that these rows come from are copied.
        padded = np.pad(inputs[first:last], [(0, 0), *pads, (0, 0)])
        sample, *place = np.unravel_index(which, (len(inputs), *shape))
        index: list[Any] = [(sample - first)[:, None]]
        grid = np.indices(layer.kernel_size).reshape(len(sizes), -1)
        for axis, where in enumerate(place):
            start = where * layer.strides[axis]
            offset = grid[axis] * layer.dilation_rate[axis]
            index.append(start[:, None] + offset[None, :])
        patches = padded[tuple(index)]
        return np.moveaxis(patches, -1, 1).reshape(len(which), -1)

    def _padding(
        self, sizes: tuple[int, ...], reach: list[int]
    ) -> tuple[list[tuple[int, int]], list[int]]:
        """Return the zeros around each spatial axis, and the output's sizes."""
        pads, shape = [], []
        padding = self.layer.padding
        for size, span, stride in zip(
            sizes, reach, self.layer.strides, strict=True
        ):
            if padding == "same":
                count = -(-size // stride)
                total = max((count - 1) * stride + span - size, 0)
                pads.append((total // 2, total - total // 2))
            elif padding == "causal":
                count = -(-size // stride)
                pads.append((span - 1, 0))
            else:
                count = (size - span) // stride + 1
                pads.append((0, 0))
            shape.append(count)
        return pads, shape

    def results(self, outputs: np.ndarray) -> np.ndarray:
        if self.layer.data_format == "channels_first":
            outputs = np.moveaxis(outputs, 1, -1)
        return outputs.reshape(-1, outputs.shape[-1])

    def to_matrix(self, kernel: np.ndarray) -> np.ndarray:
        kernel = np.moveaxis(kernel, -2, 0)
        return kernel.reshape(-1, kernel.shape[-1])

    def to_kernel(self, matrix: np.ndarray) -> np.ndarray:
        shape = (self.channels, *self.layer.kernel_size, matrix.shape[-1])
        return np.moveaxis(matrix.reshape(shape), 0, -2)
