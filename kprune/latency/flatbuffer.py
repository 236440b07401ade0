"""`.tflite` files seen as operators, each of which can be cut out and resized."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kprune.export.operators import tflite_schema

Place = tuple[int, int]
"""An axis of an operator: position of its tensor, position of the axis."""


@dataclass(frozen=True)
class Tensor:
    """A tensor that an operator reads or writes.

    Args:
        shape: Axis lengths.
        dtype: Name of the number format, `"FLOAT32"`.
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
        kind: `"CONV_2D"`.
        options: Its attributes as text, in a fixed order.
        tensors: Inputs, then outputs; absent optional inputs are left out.
    """

    kind: str
    options: str
    tensors: tuple[Tensor, ...]

    @property
    def elements(self) -> int:
        """How many numbers it reads and writes, constants left out."""
        return sum(
            int(np.prod(t.shape)) for t in self.tensors if not t.constant
        )


class OperatorFile:
    """The operators of a `.tflite` file.

    Args:
        content: Bytes of the file.
    """

    def __init__(self, content: bytes) -> None:
        schema = self._schema = tflite_schema()
        root = schema.Model.GetRootAs(content, 0)
        self._model = schema.ModelT.InitFromObj(root)
        self._graph = self._model.subgraphs[0]
        self._kinds = _names(schema.BuiltinOperator)
        self._dtypes = _names(schema.TensorType)
        self.operators = [self._operator(op) for op in self._graph.operators]

    def _operator(self, op: Any) -> Operator:
        code = self._model.operatorCodes[op.opcodeIndex]
        # Old files hold codes below 128 in a byte field of their own.
        number = max(code.builtinCode, code.deprecatedBuiltinCode)
        tensors = [
            self._tensor(index, position >= len(op.inputs))
            for position, index in enumerate([*op.inputs, *op.outputs])
            if index >= 0
        ]
        custom = code.customCode
        kind = custom.decode() if custom else self._kinds[number]
        return Operator(kind, _options(op), tuple(tensors))

    def _tensor(self, index: int, output: bool) -> Tensor:
        tensor = self._graph.tensors[index]
        return Tensor(
            _shape(tensor),
            self._dtypes[tensor.type],
            self._data(tensor) is not None,
            output,
        )

    def _data(self, tensor: Any) -> Any:
        data = self._model.buffers[tensor.buffer].data
        return None if data is None or len(data) == 0 else data

    def cut(
        self, position: int, lengths: Mapping[Place, int] | None = None
    ) -> bytes:
        """Return a file with one operator alone.

        Args:
            position: Of the operator.
            lengths: New lengths of some axes. Values of constants that change
                their shape are repeated or cut; how long an operator takes
                does not depend on them.

        Returns:
            Bytes of a `.tflite` file.
        """
        import flatbuffers

        schema = self._schema
        source = self._graph.operators[position]
        model, graph = schema.ModelT(), schema.SubGraphT()
        model.version = 3
        model.operatorCodes = [self._model.operatorCodes[source.opcodeIndex]]
        model.buffers = [schema.BufferT()]
        graph.tensors = []
        places: dict[int, int] = {}
        used = [i for i in [*source.inputs, *source.outputs] if i >= 0]
        for slot, index in enumerate(used):
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
            if i >= 0 and self._data(self._graph.tensors[i]) is None
        )
        graph.outputs = op.outputs
        graph.operators = [op]
        model.subgraphs = [graph]
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _copy(
        self, index: int, lengths: Mapping[int, int], buffers: list[Any]
    ) -> Any:
        source = self._graph.tensors[index]
        tensor = copy.copy(source)
        before = _shape(source)
        shape = tuple(lengths.get(a, n) for a, n in enumerate(before))
        tensor.shape = np.array(shape, np.int32)
        tensor.shapeSignature = None
        tensor.buffer = 0
        if (data := self._data(source)) is not None:
            # Bytes per element, whatever the number format is.
            width = len(data) // max(1, int(np.prod(before)))
            buffer = self._schema.BufferT()
            size = int(np.prod(shape)) * width
            raw = np.frombuffer(bytes(data), np.uint8)
            buffer.data = raw if shape == before else np.resize(raw, size)
            tensor.buffer = len(buffers)
            buffers.append(buffer)
        if shape != before:
            tensor.quantization = _requantized(source.quantization, shape)
        return tensor


def _names(codes: type) -> dict[int, str]:
    return {v: k for k, v in vars(codes).items() if isinstance(v, int)}


def _shape(tensor: Any) -> tuple[int, ...]:
    return () if tensor.shape is None else tuple(int(n) for n in tensor.shape)


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
    """Scale per channel, for another number of channels."""
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
