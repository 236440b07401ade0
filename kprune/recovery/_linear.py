"""Matrix views of linear layers."""

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

CHUNK = 4096
"""Rows computed at once: for larger arrays, memory is allocated anew each time."""

ROWS_PER_COLUMN = 128
LEAST_ROWS = 20_000
"""With this many rows per column, a fit is as good as one of all rows."""

COLUMNS = 6000
"""Most columns of a fitted matrix: time grows with their cube."""


class LinearView(abc.ABC):
    """A layer as `rows (r, columns) @ matrix (columns, filters)`.

    Channel `c` has the columns `c`, `c + channels`, `c + 2 * channels` ...: one
    per position of a convolution's window.

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
        """Number of columns of each input channel."""

    @abc.abstractmethod
    def rows(
        self, inputs: np.ndarray, which: np.ndarray, alive: np.ndarray
    ) -> np.ndarray:
        """Return some of the rows, with the columns of alive channels.

        Args:
            inputs: The layer's inputs.
            which: Numbers of the rows, of shape `(r,)`.
            alive: Booleans of shape `(channels,)`: alive input channels.

        Returns:
            Array of shape `(r, columns of alive channels)`.
        """

    @abc.abstractmethod
    def results(self, outputs: np.ndarray) -> np.ndarray:
        """Return the layer's outputs reshaped to `(all rows, filters)`."""

    @abc.abstractmethod
    def to_matrix(self, kernel: np.ndarray) -> np.ndarray:
        """Return the kernel as a matrix of shape `(columns, filters)`."""

    @abc.abstractmethod
    def to_kernel(self, matrix: np.ndarray) -> np.ndarray:
        """Return a matrix of shape `(columns, filters)` as a kernel."""

    @property
    def channels(self) -> int:
        """Number of input channels."""
        return int(self.kernel.shape[-2])

    @property
    def columns(self) -> int:
        """Number of columns of the matrix."""
        return self.channels * self.per_channel

    def columns_of(self, alive: np.ndarray) -> np.ndarray:
        """Return booleans of shape `(columns,)`: columns of alive channels."""
        return np.tile(alive, self.per_channel)

    @abc.abstractmethod
    def places(self, inputs: Sequence[int]) -> int:
        """Return the number of rows per sample, from the shape of the inputs."""

    def chunks(
        self,
        inputs: Sequence[Any],
        limit: int,
        alive: np.ndarray,
        folds: int = 1,
    ) -> Iterator[tuple[np.ndarray, int, np.ndarray, np.ndarray]]:
        """Yield randomly chosen rows in chunks; the choice is always the same.

        Sample `n` is held out if `n % folds == folds - 1`. In each chunk either
        all samples are held out or none.

        Args:
            inputs: The layer's inputs, batch by batch.
            limit: Largest number of rows.
            alive: See `rows`.
            folds: Number of folds; with 1, chunks are not split by it.

        Yields:
            `(rows, batch number, row numbers in the batch, sample numbers)`.
        """
        counts = [self.places(part.shape) * len(part) for part in inputs]
        total = sum(counts)
        limit = min(limit, self.enough(int(self.columns_of(alive).sum())))
        which = np.arange(total)
        if total > limit:
            rng = np.random.default_rng(0)
            which = np.sort(rng.choice(total, limit, replace=False))
        first_row = first_sample = 0
        for number, (part, count) in enumerate(
            zip(inputs, counts, strict=True)
        ):
            low, high = np.searchsorted(which, [first_row, first_row + count])
            mine = which[low:high] - first_row
            samples = first_sample + mine // (count // len(part))
            given = seen(part)
            held_out = samples % folds == folds - 1
            for chosen in (np.flatnonzero(~held_out), np.flatnonzero(held_out)):
                for start in range(0, len(chosen), CHUNK):
                    some = chosen[start : start + CHUNK]
                    rows = single(self.rows(given, mine[some], alive))
                    yield rows, number, mine[some], samples[some]
            first_row += count
            first_sample += len(part)

    @staticmethod
    def enough(columns: int) -> int:
        """Return how many rows a fit of `columns` columns needs."""
        return max(LEAST_ROWS, ROWS_PER_COLUMN * columns)


def seen(tensor: Any) -> np.ndarray:
    """Return a tensor as an array, without a copy if possible."""
    if keras.config.backend() == "torch":
        return read(tensor)
    return np.asarray(tensor)


def single(values: np.ndarray) -> np.ndarray:
    """Return values in at least single precision."""
    small = values.dtype.kind != "f" or values.dtype.itemsize < 4
    return values.astype("float32") if small else values


_kinds: dict[type, type[LinearView]] = {}


def alive_parts(
    operation: Any, view: LinearView
) -> tuple[np.ndarray, np.ndarray]:
    """Return which input channels and filters of a layer are alive.

    Args:
        operation: The layer, or the `FilterMask` around it.
        view: The matrix view of the layer.

    Returns:
        Booleans of shape `(channels,)` and `(filters,)`.
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
    """Return the effective value of a layer's variable, with masks applied."""
    if isinstance(operation, FilterMask):
        for known, value in operation.effective_values():
            if known is variable:
                return np.asarray(keras.ops.convert_to_numpy(value))
    return read(variable)


def register(*classes: type) -> Callable[[type[LinearView]], type[LinearView]]:
    """Return a decorator that registers a `LinearView` for layer classes."""

    def decorator(kind: type[LinearView]) -> type[LinearView]:
        for cls in classes:
            _kinds[cls] = kind
        return kind

    return decorator


def linear(layer: Any) -> LinearView | None:
    """Return the matrix view of a layer, without its activation, or None.

    The result is None for other kinds of layers, and for those whose matrix is
    not their kernel: grouped convolutions, LoRA, quantised weights. A subclass
    is treated like its parent if its rule says that it is linear.
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
class DenseMatrix(LinearView):
    """The view of a Dense layer, on inputs of any rank."""

    @property
    def kernel(self) -> keras.Variable:
        return self.layer._kernel

    @property
    def per_channel(self) -> int:
        return 1

    def places(self, inputs: Sequence[int]) -> int:
        return math.prod(inputs[1:-1])

    def rows(
        self, inputs: np.ndarray, which: np.ndarray, alive: np.ndarray
    ) -> np.ndarray:
        return inputs.reshape(-1, inputs.shape[-1])[which][:, alive]

    def results(self, outputs: np.ndarray) -> np.ndarray:
        return outputs.reshape(-1, outputs.shape[-1])

    def to_matrix(self, kernel: np.ndarray) -> np.ndarray:
        return kernel

    def to_kernel(self, matrix: np.ndarray) -> np.ndarray:
        return matrix


@register(layers.Conv1D, layers.Conv2D, layers.Conv3D)
class ConvolutionMatrix(LinearView):
    """The view of a convolution, with one row per position of the output."""

    @property
    def kernel(self) -> keras.Variable:
        return self.layer._kernel

    @property
    def per_channel(self) -> int:
        return int(np.prod(self.layer.kernel_size))

    def places(self, inputs: Sequence[int]) -> int:
        return math.prod(self._padding(inputs)[1])

    def rows(
        self, inputs: np.ndarray, which: np.ndarray, alive: np.ndarray
    ) -> np.ndarray:
        layer = self.layer
        before, shape = self._padding(inputs.shape)
        if layer.data_format == "channels_first":
            inputs = np.moveaxis(inputs, 1, -1)
        sample, *places = np.unravel_index(which, (len(inputs), *shape))
        index = sample[:, None]
        inside: Any = True
        window = np.indices(layer.kernel_size).reshape(len(shape), -1)
        for axis, size in enumerate(inputs.shape[1:-1]):
            corner = places[axis] * layer.strides[axis] - before[axis]
            reached = window[axis] * layer.dilation_rate[axis]
            at = corner[:, None] + reached
            inside = inside & (at >= 0) & (at < size)
            index = index * size + at
        pixels = inputs.reshape(-1, inputs.shape[-1])
        patches = pixels.take(np.where(inside, index, 0), axis=0)
        patches[~inside] = 0.0
        if not alive.all():
            patches = np.compress(alive, patches, axis=-1)
        return patches.reshape(len(which), -1)

    def _padding(self, inputs: Sequence[int]) -> tuple[list[int], list[int]]:
        """Return the padding before each spatial axis, and the output's sizes."""
        layer = self.layer
        first = layer.data_format == "channels_first"
        before, shape = [], []
        for size, kernel, stride, dilation in zip(
            inputs[2:] if first else inputs[1:-1],
            layer.kernel_size,
            layer.strides,
            layer.dilation_rate,
            strict=True,
        ):
            span = (kernel - 1) * dilation + 1
            if layer.padding == "valid":
                count, missing = (size - span) // stride + 1, 0
            else:
                count = -(-size // stride)
                missing = max((count - 1) * stride + span - size, 0)
            causal = layer.padding == "causal"
            before.append(span - 1 if causal else missing // 2)
            shape.append(count)
        return before, shape

    def results(self, outputs: np.ndarray) -> np.ndarray:
        if self.layer.data_format == "channels_first":
            outputs = np.moveaxis(outputs, 1, -1)
        return outputs.reshape(-1, outputs.shape[-1])

    def to_matrix(self, kernel: np.ndarray) -> np.ndarray:
        return kernel.reshape(-1, kernel.shape[-1])

    def to_kernel(self, matrix: np.ndarray) -> np.ndarray:
        return matrix.reshape(self.kernel.shape)
