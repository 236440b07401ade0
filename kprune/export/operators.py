"""List the operators of exported files."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from dataclasses import field
from typing import Any

from kprune.tflite import Flatbuffer


@dataclass(frozen=True)
class Operators:
    """Operators of a file.

    Args:
        counts: Operator name -> number of uses, most frequent first.
        custom: Names of the operators outside the format's standard set.
    """

    counts: dict[str, int] = field(default_factory=dict)
    custom: tuple[str, ...] = ()


def tflite_operators(path: str | os.PathLike[str]) -> Operators:
    """List the operators of a `.tflite` file from its flatbuffer.

    Args:
        path: A `.tflite` file.

    Returns:
        Its operators; `custom` holds TensorFlow ("Flex") and custom ones.

    Raises:
        ValueError: The file is damaged or not a TensorFlow Lite model.
    """
    return _operators(Flatbuffer.read(path))


def flatbuffer_operators(content: bytes) -> Operators:
    """List the operators of a TensorFlow Lite model in memory.

    Args:
        content: The flatbuffer.

    Returns:
        Its operators. See `tflite_operators`.
    """
    return _operators(Flatbuffer(content))


def _operators(file: Flatbuffer) -> Operators:
    operators = [op for graph in file.graphs for op in graph.operators]
    counts = Counter(map(file.kind, operators))
    custom = {file.kind(op) for op in operators if file.is_custom(op)}
    return Operators(dict(counts.most_common()), tuple(sorted(custom)))


def onnx_operators(path: str | os.PathLike[str]) -> Operators:
    """List the operators of an `.onnx` file.

    Args:
        path: An `.onnx` file.

    Returns:
        Its operators; `custom` holds those that the file's opsets do not define.
    """
    import onnx

    model = onnx.load(os.fspath(path), load_external_data=False)
    return onnx_model_operators(model)


def onnx_model_operators(model: Any) -> Operators:
    """List the operators of an ONNX model in memory.

    Args:
        model: An `onnx.ModelProto`.

    Returns:
        Its operators. See `onnx_operators`.
    """
    from onnx import defs

    versions = {
        opset.domain or "ai.onnx": opset.version for opset in model.opset_import
    }
    counts: Counter[str] = Counter()
    custom = set()
    pending = [model.graph]
    while pending:
        for node in pending.pop().node:
            counts[node.op_type] += 1
            domain = node.domain or "ai.onnx"
            version = versions.get(domain, 0)
            official = "" if domain == "ai.onnx" else domain
            if not defs.has(node.op_type, version, official):
                custom.add(node.op_type)
            pending.extend(a.g for a in node.attribute if a.HasField("g"))
    return Operators(dict(counts.most_common()), tuple(sorted(custom)))
