"""Layers that are one matrix times what they read."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from kprune.graph.registry import is_linear
from kprune.graph.values import read
from kprune.masking import FilterMask

CHUNK = 16_384
"""Rows that are looked at together."""

ROWS_PER_COLUMN = 128
LEAST_ROWS = 20_000
"""A fit of `n` columns is as good as one of all rows with so many for each."""

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
    def rows(
        self, inputs: np.ndarray, which: np.ndarray, live: np.ndarray
    ) -> np.ndarray:
        """Return some of the rows: `(which, columns of living channels)`.

        Args:
            inputs: What the layer reads.
            which: Numbers of the rows.
            live: `(channels,)` booleans: input channels that are alive.
        """

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
        self,
        inputs: Sequence[Any],
        outputs: Sequence[Any],
        limit: int,
        live: np.ndarray,
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield `(rows, outputs of the rows, samples of the rows)`.

        Which rows are taken is random, but the same each time.

        Args:
            inputs: What the layer reads, some samples at a time.
            outputs: What it gives on the same samples.
            limit: How many rows to take at most.
            live: As of `rows`.
        """
        per_sample = [
            math.prod(part.shape) // (len(part) * self.kernel.shape[-1])
            for part in outputs
        ]
        counts = [n * len(x) for n, x in zip(per_sample, outputs, strict=True)]
        total = sum(counts)
        limit = min(limit, self.enough(int(live.sum()) * self.per_channel))
        which = np.arange(total)
        if total > limit:
            rng = np.random.default_rng(0)
            which = np.sort(rng.choice(total, limit, replace=False))
        first_row = first_sample = 0
        for part, output, count, per in zip(
            inputs, outputs, counts, per_sample, strict=True
        ):
            low, high = np.searchsorted(which, [first_row, first_row + count])
            mine = which[low:high] - first_row
            part, results = read(part), self.results(read(output))
            for start in range(0, len(mine), CHUNK):
                some = mine[start : start + CHUNK]
                rows = _single(self.rows(part, some, live))
                samples = first_sample + some // per
                yield rows, _single(results[some]), samples
            first_row += count
            first_sample += len(part)

    @staticmethod
    def enough(columns: int) -> int:
        """Return how many rows a fit of so many columns needs."""
        return max(LEAST_ROWS, ROWS_PER_COLUMN * columns)


def _single(values: np.ndarray) -> np.ndarray:
    """Return values in single precision at least."""
    small = values.dtype.kind != "f" or values.dtype.itemsize < 4
    return values.astype("float32") if small else values


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


def acting(operation: Any, variable: keras.Variable) -> np.ndarray:
    """Return what a variable of a layer acts as: masked, if it is."""
    if isinstance(operation, FilterMask):
        for known, value in operation.effective_values():
            if known is variable:
                return np.asarray(keras.ops.convert_to_numpy(value))
    return read(variable)


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

    def rows(
        self, inputs: np.ndarray, which: np.ndarray, live: np.ndarray
    ) -> np.ndarray:
        return inputs.reshape(-1, inputs.shape[-1])[which][:, live]

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

    def rows(
        self, inputs: np.ndarray, which: np.ndarray, live: np.ndarray
    ) -> np.ndarray:
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
        used = inputs[first:last]
        if not live.all():
            used = used[..., live]
        padded = np.pad(used, [(0, 0), *pads, (0, 0)])
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
