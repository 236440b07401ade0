"""Cut operators out of `.tflite` files, and resize them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kprune.tflite.flatbuffer import Flatbuffer
from kprune.tflite.flatbuffer import dtype_names
from kprune.tflite.flatbuffer import pack
from kprune.tflite.flatbuffer import schema
from kprune.tflite.flatbuffer import shape

Place = tuple[int, int]
"""An axis of an operator: index of its tensor, index of the axis."""


@dataclass(frozen=True)
class Tensor:
    """A tensor that an operator reads or writes.

    Args:
        shape: Axis lengths.
        dtype: Name of the number format, for example `"FLOAT32"`.
        constant: Whether its values are in the file.
        output: Whether the operator writes it.
    """

    shape: tuple[int, ...]
    dtype: str
    constant: bool
    output: bool


@dataclass(frozen=True)
class Operator:
    """One operator of a file.

    Args:
        kind: Name of the operator, for example `"CONV_2D"`.
        options: Its attributes as text, in a fixed order.
        tensors: Inputs, then outputs; absent optional inputs are left out.
    """

    kind: str
    options: str
    tensors: tuple[Tensor, ...]

    @property
    def elements(self) -> int:
        """Number of elements that it reads and writes, without constants."""
        return sum(
            int(np.prod(t.shape)) for t in self.tensors if not t.constant
        )


class OperatorFile:
    """The operators of a `.tflite` file.

    Args:
        content: Bytes of the file.
    """

    def __init__(self, content: bytes) -> None:
        self._file = Flatbuffer(content)
        self._graph = self._file.graphs[0]
        self.operators = [self._operator(op) for op in self._graph.operators]

    def _operator(self, op: Any) -> Operator:
        tensors = [
            self._tensor(index, position >= len(op.inputs))
            for position, index in enumerate([*op.inputs, *op.outputs])
            if index >= 0
        ]
        return Operator(self._file.kind(op), _options(op), tuple(tensors))

    def integers(self, position: int) -> list[bytes]:
        """Return the constant integers of an operator, such as a shape, as bytes."""
        tensors = [
            self._graph.tensors[index]
            for index in _used(self._graph.operators[position])
        ]
        return [
            bytes(data)
            for tensor in tensors
            if dtype_names()[tensor.type] in ("INT32", "INT64")
            and (data := self._file.constant(tensor)) is not None
        ]

    def index(self, position: int, slot: int) -> int:
        """Return the index of the tensor in a slot of an operator."""
        return _used(self._graph.operators[position])[slot]

    def _tensor(self, index: int, output: bool) -> Tensor:
        tensor = self._graph.tensors[index]
        return Tensor(
            shape(tensor),
            dtype_names()[tensor.type],
            self._file.constant(tensor) is not None,
            output,
        )

    def cut(
        self, position: int, lengths: Mapping[Place, int] | None = None
    ) -> bytes:
        """Return a file that holds a single operator.

        Args:
            position: Index of the operator.
            lengths: New lengths of some axes. The values of constants that change
                their shape are repeated or cut off, since the time of an operator
                does not depend on them.

        Returns:
            Bytes of a `.tflite` file.
        """
        source = self._graph.operators[position]
        model, graph = schema().ModelT(), schema().SubGraphT()
        model.version = 3
        codes = self._file.model.operatorCodes
        model.operatorCodes = [codes[source.opcodeIndex]]
        model.buffers = [schema().BufferT()]
        graph.tensors = []
        places: dict[int, int] = {}
        for slot, index in enumerate(_used(source)):
            if index not in places:
                places[index] = len(graph.tensors)
                mine = {
                    a: n for (t, a), n in (lengths or {}).items() if t == slot
                }
                graph.tensors.append(self._copy(index, mine, model.buffers))
        op = copy.copy(source)
        op.opcodeIndex = 0
        op.intermediates = None
        op.inputs = _indices(places.get(i, -1) for i in source.inputs)
        op.outputs = _indices(places[i] for i in source.outputs)
        graph.inputs = _indices(
            places[i]
            for i in dict.fromkeys(source.inputs)
            if i >= 0 and self._file.constant(self._graph.tensors[i]) is None
        )
        graph.outputs = op.outputs
        graph.operators = [op]
        model.subgraphs = [graph]
        return pack(model)

    def resized(self, lengths: Mapping[tuple[int, Place], int]) -> bytes:
        """Return the whole file with other axis lengths.

        Args:
            lengths: Index of an operator and place of an axis -> new length. See
                `cut` for constants.

        Returns:
            Bytes of a `.tflite` file.
        """
        changed: dict[int, dict[int, int]] = {}
        for (position, (slot, axis)), length in lengths.items():
            index = _used(self._graph.operators[position])[slot]
            changed.setdefault(index, {})[axis] = length
        model, graph = copy.copy(self._file.model), copy.copy(self._graph)
        model.buffers = [*model.buffers]
        graph.tensors = [*graph.tensors]
        for index, axes in changed.items():
            graph.tensors[index] = self._copy(index, axes, model.buffers)
        graph.operators = [
            self._reshaped(op, graph.tensors, model.buffers)
            for op in graph.operators
        ]
        model.subgraphs = [graph, *self._file.graphs[1:]]
        return pack(model)

    def named(self, names: Sequence[str]) -> bytes:
        """Return the file with the first output of each operator renamed.

        Args:
            names: One name per operator.
        """
        model, graph = copy.copy(self._file.model), copy.copy(self._graph)
        graph.tensors = [*graph.tensors]
        for op, name in zip(graph.operators, names, strict=True):
            tensor = copy.copy(graph.tensors[op.outputs[0]])
            tensor.name = name.encode()
            graph.tensors[op.outputs[0]] = tensor
        model.subgraphs = [graph, *self._file.graphs[1:]]
        return pack(model)

    def _reshaped(self, op: Any, tensors: list[Any], buffers: list[Any]) -> Any:
        """Update the target shape of a reshape."""
        if self._file.kind(op) != "RESHAPE":
            return op
        target = tensors[op.outputs[0]].shape
        if len(op.inputs) > 1 and op.inputs[1] >= 0:
            tensor = copy.copy(tensors[op.inputs[1]])
            buffer = schema().BufferT()
            buffer.data = np.frombuffer(
                np.array(target, np.int32).tobytes(), np.uint8
            )
            tensor.buffer = len(buffers)
            buffers.append(buffer)
            tensors[op.inputs[1]] = tensor
        changed = copy.copy(op)
        if op.builtinOptions is not None:
            changed.builtinOptions = copy.copy(op.builtinOptions)
            changed.builtinOptions.newShape = target
        return changed

    def _copy(
        self, index: int, lengths: Mapping[int, int], buffers: list[Any]
    ) -> Any:
        source = self._graph.tensors[index]
        tensor = copy.copy(source)
        before = shape(source)
        after = tuple(lengths.get(a, n) for a, n in enumerate(before))
        tensor.shape = np.array(after, np.int32)
        tensor.shapeSignature = None
        tensor.buffer = 0
        if (data := self._file.constant(source)) is not None:
            # Bytes per element, for any number format.
            width = len(data) // max(1, int(np.prod(before)))
            buffer = schema().BufferT()
            size = int(np.prod(after)) * width
            raw = np.frombuffer(bytes(data), np.uint8)
            buffer.data = raw if after == before else np.resize(raw, size)
            tensor.buffer = len(buffers)
            buffers.append(buffer)
        if after != before:
            tensor.quantization = _requantized(source.quantization, after)
        return tensor


def _used(op: Any) -> list[int]:
    """Return the indices of the tensors in an operator's slots."""
    return [int(i) for i in [*op.inputs, *op.outputs] if i >= 0]


def _indices(numbers: Any) -> np.ndarray:
    return np.array([*numbers], np.int32)


def _options(op: Any) -> str:
    fields: dict[str, Any] = {}
    for options in (op.builtinOptions, op.builtinOptions2):
        fields.update(vars(options) if options is not None else {})
    shown = {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in sorted(fields.items())
    }
    return " ".join(f"{k}={v}" for k, v in shown.items())


def _requantized(quantization: Any, shape: tuple[int, ...]) -> Any:
    """Return per-channel quantisation for another number of channels."""
    if quantization is None or quantization.scale is None:
        return quantization
    if len(quantization.scale) < 2:
        return quantization
    changed = copy.copy(quantization)
    count = shape[quantization.quantizedDimension]
    changed.scale = np.resize(quantization.scale, count)
    changed.zeroPoint = np.resize(quantization.zeroPoint, count)
    changed.min = changed.max = None
    return changed
