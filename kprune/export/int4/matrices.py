"""Find and replace the weight matrices of convolutions and dense layers in a file."""

from __future__ import annotations

import copy
import functools
import types
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from kprune.recovery._linear import ConvolutionMatrix
from kprune.recovery._linear import DenseMatrix
from kprune.recovery._linear import LinearView
from kprune.tflite import Flatbuffer
from kprune.tflite.flatbuffer import dtype_names
from kprune.tflite.flatbuffer import pack
from kprune.tflite.flatbuffer import schema
from kprune.tflite.flatbuffer import shape

KINDS = ("CONV_2D", "FULLY_CONNECTED")
"""Operators for which ai-edge-quantizer supports 4-bit weights and 8-bit inputs."""


@dataclass(frozen=True)
class Matrix:
    """A float32 weight matrix, and the operators that read it.

    Args:
        name: Name of the tensor in the file.
        number: Index of the tensor.
        positions: Indices of the operators that read it. There are several if a
            layer is called several times.
        kind: `"CONV_2D"` or `"FULLY_CONNECTED"`.
        weights: `(filters, columns)`.
        scopes: ai-edge-quantizer's names of these operators.
    """

    name: str
    number: int
    positions: tuple[int, ...]
    kind: str
    weights: np.ndarray
    scopes: tuple[str, ...]


@dataclass(frozen=True)
class Rounded:
    """A matrix rounded to 4 bits.

    Args:
        weights: `(filters, columns)`, whole numbers times the scales.
        scales: `(filters,)`.
        bias: `(filters,)`, correction to add to the bias, or None.
    """

    weights: np.ndarray
    scales: np.ndarray
    bias: np.ndarray | None = None


class MatrixFile:
    """A float `.tflite` file whose matrices can be replaced.

    Args:
        content: Bytes of the file.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        self._file = Flatbuffer(content)
        self._graph = self._file.graphs[0]

    @functools.cached_property
    def _readers(self) -> dict[int, list[tuple[int, int]]]:
        """Tensor index -> the operators and input slots that read it."""
        readers: dict[int, list[tuple[int, int]]] = {}
        for position, op in enumerate(self._graph.operators):
            for slot, index in enumerate(op.inputs):
                readers.setdefault(int(index), []).append((position, slot))
        return readers

    @functools.cached_property
    def _owners(self) -> Counter[int]:
        """Buffer index -> number of tensors that share it."""
        return Counter(t.buffer for g in self._file.graphs for t in g.tensors)

    @functools.cached_property
    def matrices(self) -> list[Matrix]:
        """The matrices, in the order of the operators that first read them.

        Weights that operators of another kind read too are left out.
        """
        readers = self._readers
        return [
            self._matrix(index, [position for position, _ in places])
            for index, places in readers.items()
            if self._is_matrix(index, places)
        ]

    def view(self, position: int) -> LinearView:
        """Return an operator as a linear layer."""
        op = self._graph.operators[position]
        if self._file.kind(op) == "FULLY_CONNECTED":
            return DenseMatrix(None)
        options = op.builtinOptions
        window = shape(self._graph.tensors[op.inputs[1]])[1:3]
        layer = types.SimpleNamespace(
            kernel_size=window,
            strides=(options.strideH, options.strideW),
            dilation_rate=(options.dilationHFactor, options.dilationWFactor),
            padding=("same", "valid")[options.padding],
            data_format="channels_last",
        )
        return ConvolutionMatrix(layer)

    def read_by(self, position: int) -> int:
        """Return the index of the tensor that an operator multiplies."""
        return int(self._graph.operators[position].inputs[0])

    def has_bias(self, matrix: Matrix) -> bool:
        """Return whether a matrix has a bias of its own that can be corrected."""
        return len(matrix.positions) == 1

    def replaced(self, rounded: Iterable[tuple[Matrix, Rounded]]) -> bytes:
        """Return the file's bytes with matrices replaced.

        Args:
            rounded: Pairs of a matrix and its replacement.
        """
        model, graph = copy.copy(self._file.model), copy.copy(self._graph)
        model.buffers = [*model.buffers]
        graph.tensors, graph.operators = [*graph.tensors], [*graph.operators]
        for matrix, new in rounded:
            buffer = graph.tensors[matrix.number].buffer
            model.buffers[buffer] = _buffer(new.weights)
            if new.bias is not None:
                (position,) = matrix.positions
                self._correct(model, graph, position, new.bias)
        model.subgraphs = [graph, *self._file.graphs[1:]]
        return pack(model)

    def _correct(
        self, model: Any, graph: Any, position: int, change: np.ndarray
    ) -> None:
        op = copy.copy(graph.operators[position])
        inputs = [*map(int, op.inputs), -1][:3]
        before = np.zeros(len(change), "float32")
        if inputs[2] >= 0:
            before = self._values(graph.tensors[inputs[2]]).reshape(-1)
        buffer = _buffer(before + change)
        if inputs[2] >= 0 and self._is_read_once(inputs[2]):
            model.buffers[graph.tensors[inputs[2]].buffer] = buffer
            return
        # Several operators may share one bias of zeros.
        weights = graph.tensors[inputs[1]]
        bias = schema().TensorT()
        bias.name = weights.name + b"/corrected"
        bias.shape = np.array(before.shape, np.int32)
        bias.type = weights.type
        bias.buffer = len(model.buffers)
        model.buffers.append(buffer)
        inputs[2] = len(graph.tensors)
        graph.tensors.append(bias)
        op.inputs = np.array(inputs, np.int32)
        graph.operators[position] = op

    def _is_matrix(self, index: int, places: list[tuple[int, int]]) -> bool:
        if index < 0:
            return False
        tensor = self._graph.tensors[index]
        ops = [self._graph.operators[position] for position, _ in places]
        kinds = {self._file.kind(op) for op in ops}
        return (
            len(kinds) == 1
            and kinds <= set(KINDS)
            and all(slot == 1 for _, slot in places)
            and dtype_names()[tensor.type] == "FLOAT32"
            and self._file.constant(tensor) is not None
            and self._owners[tensor.buffer] == 1
            and self._ungrouped(index, ops)
        )

    def _is_read_once(self, index: int) -> bool:
        tensor = self._graph.tensors[index]
        return len(self._readers[index]) == 1 == self._owners[tensor.buffer]

    def _ungrouped(self, index: int, ops: list[Any]) -> bool:
        """Return whether all convolutions have a single group."""
        channels = shape(self._graph.tensors[index])[-1]
        return all(
            shape(self._graph.tensors[op.inputs[0]])[-1] == channels
            for op in ops
            if self._file.kind(op) == "CONV_2D"
        )

    def _matrix(self, index: int, positions: list[int]) -> Matrix:
        tensor = self._graph.tensors[index]
        values = self._values(tensor)
        return Matrix(
            tensor.name.decode(),
            index,
            tuple(positions),
            self._file.kind(self._graph.operators[positions[0]]),
            values.reshape(len(values), -1),
            tuple(map(self._scope, positions)),
        )

    def _scope(self, position: int) -> str:
        outputs = self._graph.operators[position].outputs
        return "".join(
            f"{self._graph.tensors[i].name.decode()};" for i in outputs
        )

    def _values(self, tensor: Any) -> np.ndarray:
        data = bytes(self._file.constant(tensor))
        return np.frombuffer(data, "float32").reshape(shape(tensor))


def _buffer(values: np.ndarray) -> Any:
    buffer = schema().BufferT()
    raw = np.ascontiguousarray(values, "float32").tobytes()
    buffer.data = np.frombuffer(raw, np.uint8)
    return buffer
