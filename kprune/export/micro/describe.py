"""The comment at the top of a C header."""

from __future__ import annotations

from typing import Any

from kprune.export.micro.arena import Arena
from kprune.export.micro.resolver import resolver_method
from kprune.export.operators import flatbuffer_operators
from kprune.tflite import Flatbuffer
from kprune.tflite import dtype_names
from kprune.tflite import shape


def describe(content: bytes, arena: Arena) -> list[str]:
    """Describe what a `.tflite` model needs from the program that runs it.

    Args:
        content: The flatbuffer.
        arena: Estimate of its tensor arena.

    Returns:
        Lines of text: inputs, outputs, memory, operators.
    """
    counts = flatbuffer_operators(content).counts
    return [
        "TensorFlow Lite model, written by kprune.export.",
        *_interface(content),
        "",
        f"Tensor arena: about {arena.total} bytes, {arena.planned} of them for "
        "activations.",
        "An estimate for the reference kernels; CMSIS-NN and ESP-NN need more.",
        "interpreter.arena_used_bytes() returns the exact number on the device.",
        "",
        "Operators:",
        *(f"  {name} x{count}" for name, count in counts.items()),
        "",
        f"tflite::MicroMutableOpResolver<{len(counts)}> resolver;",
        *map(_registration, counts),
    ]


def _registration(operator: str) -> str:
    method = resolver_method(operator)
    if method is None:
        return f"// {operator}: TensorFlow Lite Micro has no such kernel."
    return f"resolver.{method}();"


def _interface(content: bytes) -> list[str]:
    """Return one line per input and output, in the order of the interpreter."""
    file = Flatbuffer(content)
    graph = file.graphs[0]
    names = {
        entry.tensorIndex: entry.name.decode()
        for signature in file.model.signatureDefs or []
        for entry in (*signature.inputs, *signature.outputs)
    }
    return [
        f"{what} {position}: {names.get(index, '')} "
        f"{_tensor(graph.tensors[index])}"
        for what, indices in (
            ("Input", graph.inputs),
            ("Output", graph.outputs),
        )
        for position, index in enumerate(indices)
    ]


def _tensor(tensor: Any) -> str:
    axes = ", ".join(map(str, shape(tensor)))
    text = f"{dtype_names()[tensor.type].lower()} ({axes})"
    quantization = tensor.quantization
    if quantization is None or quantization.scale is None:
        return text
    # Nine digits identify every float32.
    return (
        f"{text}, scale {float(quantization.scale[0]):.9g}, "
        f"zero point {int(quantization.zeroPoint[0])}"
    )
