"""Which operators an exported file uses."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path
from typing import Any


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
        ValueError: If the file is not a TensorFlow Lite model.
    """
    content = Path(path).read_bytes()
    if content[4:8] != b"TFL3":
        raise ValueError(f"{str(path)!r} is not a TensorFlow Lite model.")
    return flatbuffer_operators(content)


def flatbuffer_operators(content: bytes) -> Operators:
    """List the operators of a TensorFlow Lite model in memory.

    Args:
        content: The flatbuffer.

    Returns:
        Its operators, see `tflite_operators`.
    """
    schema = tflite_schema()
    model = schema.Model.GetRootAs(content, 0)
    builtin = enum_names(schema.BuiltinOperator)
    names, custom = [], set()
    for position in range(model.OperatorCodesLength()):
        opcode = model.OperatorCodes(position)
        # Old files hold codes below 128 in a byte field of their own.
        code = max(opcode.BuiltinCode(), opcode.DeprecatedBuiltinCode())
        if code == schema.BuiltinOperator.CUSTOM:
            names.append(opcode.CustomCode().decode())
            custom.add(names[-1])
        else:
            names.append(builtin[code])
    counts: Counter[str] = Counter()
    for position in range(model.SubgraphsLength()):
        graph = model.Subgraphs(position)
        counts.update(
            names[graph.Operators(i).OpcodeIndex()]
            for i in range(graph.OperatorsLength())
        )
    return Operators(dict(counts.most_common()), tuple(sorted(custom)))


def tflite_schema() -> Any:
    """Return the module of classes that read and write `.tflite` files."""
    try:
        from ai_edge_litert import schema_py_generated as schema
    except ImportError:
        from tensorflow.lite.python import schema_py_generated as schema
    return schema


def enum_names(enum: Any) -> dict[int, str]:
    """Return the names of an enumeration of the schema by their numbers."""
    return {n: name for name, n in vars(enum).items() if isinstance(n, int)}


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
        Its operators, see `onnx_operators`.
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
