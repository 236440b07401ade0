"""Read and write the flatbuffer in a `.tflite` file."""

from __future__ import annotations

import functools
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_DAMAGE = (
    struct.error,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)
"""Errors that reading a damaged model, or other bytes, can raise."""


class Flatbuffer:
    """A TensorFlow Lite model in memory.

    Args:
        content: Bytes of the file.
        name: What messages call it.

    Raises:
        ValueError: The bytes are not a TensorFlow Lite model, or are incomplete.

    Example:

    ```python
    file = Flatbuffer.read("model.tflite")
    [file.kind(op) for op in file.graphs[0].operators]  # ["CONV_2D", ...]
    ```
    """

    def __init__(self, content: bytes, name: str = "The model") -> None:
        self.name = name
        if content[4:8] != b"TFL3":
            raise ValueError(
                f"{name} is not a TensorFlow Lite model: its first bytes, "
                f"{content[:8]!r}, do not contain the mark 'TFL3'."
            )
        try:
            self.model = _tools().read_model_from_bytearray(content)
            self._complete()
        except _DAMAGE as error:
            raise ValueError(
                f"{name} is damaged, perhaps cut short: {len(content)} bytes do "
                "not hold a whole TensorFlow Lite model. Export or copy it again."
            ) from error

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Flatbuffer:
        """Return the model in a file.

        Args:
            path: A `.tflite` file.

        Raises:
            ValueError: It is damaged or not a TensorFlow Lite model.
        """
        return cls(Path(path).read_bytes(), repr(os.fspath(path)))

    @property
    def graphs(self) -> list[Any]:
        """The subgraphs; the first one is run."""
        graphs: list[Any] = self.model.subgraphs
        return graphs

    def kind(self, op: Any) -> str:
        """Return the name of an operator, for example `"CONV_2D"`."""
        code = self.model.operatorCodes[op.opcodeIndex]
        if code.customCode:
            name: str = code.customCode.decode()
            return name
        number = _tools().get_builtin_code_from_operator_code(code)
        # A newer file may have operators that the schema does not have yet.
        return operator_names().get(number, f"OPERATOR_{number}")

    def is_custom(self, op: Any) -> bool:
        """Return whether an operator is outside the standard set."""
        return bool(self.model.operatorCodes[op.opcodeIndex].customCode)

    def constant(self, tensor: Any) -> Any:
        """Return the bytes of a constant; None for a computed tensor."""
        data = self.model.buffers[tensor.buffer].data
        return None if data is None or len(data) == 0 else data

    def _complete(self) -> None:
        """Replace missing lists by empty ones; raise if a part is missing."""
        self.model.operatorCodes = self.model.operatorCodes or []
        for owner, names in self._lists():
            for name in names:
                if getattr(owner, name) is None:
                    setattr(owner, name, [])
        for graph in self.graphs:
            for tensor in graph.tensors:
                self.constant(tensor)
            for op in graph.operators:
                self.kind(op)
            used = [graph.inputs, graph.outputs]
            used += [
                n for op in graph.operators for n in (op.inputs, op.outputs)
            ]
            for index in (index for indices in used for index in indices):
                if index >= len(graph.tensors):
                    raise LookupError(f"There is no tensor {index}.")

    def _lists(self) -> Iterator[tuple[Any, tuple[str, ...]]]:
        for graph in self.graphs:
            yield graph, ("tensors", "operators", "inputs", "outputs")
            for op in graph.operators:
                yield op, ("inputs", "outputs")


def pack(model: Any) -> bytes:
    """Return the bytes of a `.tflite` file.

    Args:
        model: A `ModelT` of the schema.
    """
    return bytes(_tools().convert_object_to_bytearray(model))


def shape(tensor: Any) -> tuple[int, ...]:
    """Return the axis lengths of a tensor."""
    return () if tensor.shape is None else tuple(int(n) for n in tensor.shape)


def schema() -> Any:
    """Return the module with the classes of the schema."""
    return _tools().schema_fb


@functools.cache
def operator_names() -> dict[int, str]:
    """Return the names of the standard operators by their numbers."""
    return _names(schema().BuiltinOperator)


@functools.cache
def dtype_names() -> dict[int, str]:
    """Return the names of the number formats by their numbers."""
    return _names(schema().TensorType)


def _names(enum: Any) -> dict[int, str]:
    return {n: name for name, n in vars(enum).items() if isinstance(n, int)}


def _tools() -> Any:
    try:
        from ai_edge_litert.tools import flatbuffer_utils
    except ImportError:
        # There is no wheel for this platform. TensorFlow has the same module.
        from tensorflow.lite.tools import flatbuffer_utils
    return flatbuffer_utils
