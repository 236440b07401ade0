"""Estimate the memory that TensorFlow Lite Micro needs to run a `.tflite` model."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kprune.tflite import Flatbuffer
from kprune.tflite import dtype_names
from kprune.tflite import shape

ALIGNMENT = 16
"""Alignment of every tensor in TensorFlow Lite Micro, in bytes."""

# Bytes that the interpreter keeps besides activations, measured with the
# reference kernels on a 64-bit host and rounded up. This is more than needed:
# pointers are half as long on a microcontroller.
_BASE = 640
_PER_TENSOR = 24
_PER_OPERATOR = 192
_PER_INTERFACE = 96
_PER_CHANNEL = 8
# Before the first run, the memory of activations holds records: those of the
# planner, and those of the tensors of one operator after another.
_PLANNING_PER_TENSOR = 80
_PREPARING_PER_TENSOR = 64
_PREPARING_PER_SCALES = 28
_PREPARING_PER_SCALE = 4

_SCALED_PER_CHANNEL = (
    "CONV_2D",
    "DEPTHWISE_CONV_2D",
    "FULLY_CONNECTED",
    "TRANSPOSE_CONV",
)
_INT32_SCRATCH = ("MEAN", "SUM", "TRANSPOSE_CONV")


@dataclass(frozen=True)
class Buffer:
    """Memory that holds one tensor for a while.

    Args:
        size: Size in bytes.
        first: Step that writes the tensor.
        last: Last step that reads it.
    """

    size: int
    first: int
    last: int

    def meets(self, other: Buffer) -> bool:
        """Return whether both are alive in some step."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Lifetime:
    """Time for which a tensor of the arena is alive.

    Args:
        tensor: Index of the tensor in the subgraph. For scratch memory, the index
            of the tensor that is written with it.
        itemsize: Bytes per element.
        first: Step that writes it. Inputs are written in step 0.
        last: Last step that reads it.
        scratch: Whether it is scratch memory.
    """

    tensor: int
    itemsize: int
    first: int
    last: int
    scratch: bool = False

    def size(self, graph: Any) -> int:
        """Return its aligned size in bytes."""
        elements = math.prod(shape(graph.tensors[self.tensor]))
        return _aligned(self.itemsize * elements)


@dataclass(frozen=True)
class Moment:
    """The memory in use while an operator runs.

    Args:
        operator: Kind of the operator, such as `"CONV_2D"`, and the name of the
            tensor that it writes.
        size: Total size in bytes of the tensors that are alive.
        tensors: Name and size of each of these tensors, the largest first.
    """

    operator: str
    size: int
    tensors: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Arena:
    """Estimate of the tensor arena, in bytes.

    Args:
        peak: Largest size of the activations alive in one step, a lower limit for
            any plan.
        planned: Size of all activations in a plan made greedily by size.
        persistent: Allowance for the interpreter's own state, and its records per
            tensor, operator and channel.
        planning: Size of the records before the model runs. They share the memory
            of activations.
    """

    peak: int
    planned: int
    persistent: int
    planning: int = 0

    @property
    def used(self) -> int:
        """Bytes in use while the model runs, as in `arena_used_bytes()`."""
        return _aligned(self.planned + self.persistent)

    @property
    def total(self) -> int:
        """Bytes to give the interpreter."""
        return _aligned(max(self.planned, self.planning) + self.persistent)


def greedy_offsets(buffers: Sequence[Buffer]) -> list[int]:
    """Place buffers so that no two that are alive together overlap.

    As in TensorFlow Lite Micro, the largest buffer is placed first, the later one
    among equal sizes, and each goes to the lowest gap that it fits in.

    Args:
        buffers: Buffers to place.

    Returns:
        Offset of each buffer, in the order given.
    """
    order = sorted(
        range(len(buffers)), key=lambda i: (buffers[i].size, i), reverse=True
    )
    offsets = [0] * len(buffers)
    placed: list[int] = []
    for current in order:
        rivals = sorted(
            (i for i in placed if buffers[i].meets(buffers[current])),
            key=lambda i: offsets[i],
        )
        offset = 0
        for rival in rivals:
            if offsets[rival] - offset >= buffers[current].size:
                break
            offset = max(offset, offsets[rival] + buffers[rival].size)
        offsets[current] = offset
        placed.append(current)
    return offsets


def estimate_arena(content: bytes) -> Arena:
    """Estimate the tensor arena of a `.tflite` model.

    Args:
        content: The flatbuffer; all shapes in it must be known.

    Returns:
        The estimate. Optimised kernels (CMSIS-NN, ESP-NN) need scratch memory in
        addition.

    Example:

    ```python
    estimate_arena(Path("model.tflite").read_bytes()).total
    ```
    """
    file = Flatbuffer(content)
    lives = _Lives(file)
    lives.walk(0)
    buffers = [b for b in lives.buffers() if b.size]
    offsets = greedy_offsets(buffers)
    ends = (o + b.size for o, b in zip(offsets, buffers, strict=True))
    return Arena(
        peak=_peak(buffers),
        planned=max(ends, default=0),
        persistent=_BASE + lives.persistent(),
        planning=lives.planning(),
    )


def lifetimes(content: bytes) -> list[Lifetime]:
    """Return when each tensor in the arena of a `.tflite` file is alive.

    Args:
        content: The flatbuffer, without loops or branches.

    Returns:
        Activations, then scratch memory. Operator n runs in step n + 1.

    Raises:
        ValueError: The file has loops or branches.
    """
    file = Flatbuffer(content)
    if len(file.graphs) > 1:
        raise ValueError(
            "The memory of a model with loops or branches (recurrent layers) "
            "cannot be listed tensor by tensor."
        )
    lives = _Lives(file)
    lives.walk(0)
    return [life for _, life in lives.lifetimes()]


def fullest(content: bytes) -> list[Moment]:
    """Return the moments with the largest memory in use; several if they tie.

    Args:
        content: The flatbuffer, without loops or branches.
    """
    file = Flatbuffer(content)
    graph = file.graphs[0]
    lives = lifetimes(content)
    sizes = [life.size(graph) for life in lives]
    moments = []
    for step, op in enumerate(graph.operators, start=1):
        alive = [
            (f"{_name(graph, life.tensor)}{' (scratch)' * life.scratch}", size)
            for life, size in zip(lives, sizes, strict=True)
            if life.first <= step <= life.last
        ]
        alive.sort(key=lambda entry: -entry[1])
        title = f"{file.kind(op)} {_name(graph, int(op.outputs[0]))}"
        total = sum(size for _, size in alive)
        moments.append(Moment(title, total, tuple(alive)))
    most = max((moment.size for moment in moments), default=0)
    return [moment for moment in moments if moment.size == most]


def _name(graph: Any, index: int) -> str:
    """Return a tensor's name; the last one if several were fused."""
    name: bytes = graph.tensors[index].name or b""
    parts = name.decode("utf-8", "replace").split(";")
    return parts[-1] or f"tensor {index}"


class _Lives:
    """Follows the operators of a model to find when each tensor is alive.

    Args:
        file: The model.
    """

    def __init__(self, file: Flatbuffer) -> None:
        self._file = file
        self._widths = _widths()
        self._clock = 0
        self._first: dict[tuple[int, int], int] = {}
        self._last: dict[tuple[int, int], int] = {}
        self._scratch: list[tuple[int, Lifetime]] = []

    def walk(self, number: int) -> None:
        """Follow the operators of a subgraph, and of those that they call."""
        graph = self._file.graphs[number]
        self._touch(number, graph.inputs)
        for op in graph.operators:
            self._clock += 1
            begin = self._clock
            self._touch(number, op.outputs)
            for called in _called(op.builtinOptions):
                self._clock += 1
                self.walk(called)
            self._touch(number, [*op.inputs, *op.outputs])
            if self._needs_scratch(graph, op):
                written = int(op.outputs[0])
                life = Lifetime(written, 4, begin, self._clock, scratch=True)
                self._scratch.append((number, life))
        self._touch(number, graph.outputs)

    def _touch(self, number: int, tensors: Iterable[int]) -> None:
        for index in tensors:
            self._first.setdefault((number, index), self._clock)
            self._last[number, index] = self._clock

    def buffers(self) -> list[Buffer]:
        """Return the planned buffers: activations, then scratch memory."""
        graphs = self._file.graphs
        return [
            Buffer(life.size(graphs[number]), life.first, life.last)
            for number, life in self.lifetimes()
        ]

    def lifetimes(self) -> list[tuple[int, Lifetime]]:
        """Return the lifetime of each buffer, with the index of its subgraph."""
        graphs = self._file.graphs
        activations = [
            (
                number,
                Lifetime(
                    index,
                    self._widths[graphs[number].tensors[index].type],
                    self._first[number, index],
                    self._last[number, index],
                ),
            )
            for number, index in sorted(self._first)
            if index >= 0 and not self._fixed(number, index)
        ]
        return activations + self._scratch

    def persistent(self) -> int:
        """Return the bytes that grow with the model and are never reused."""
        total = 0
        for number, graph in enumerate(self._file.graphs):
            total += _PER_TENSOR * len(graph.tensors)
            total += _PER_OPERATOR * len(graph.operators)
            total += _PER_INTERFACE * (len(graph.inputs) + len(graph.outputs))
            total += sum(
                self._bytes(number, index)
                for index, tensor in enumerate(graph.tensors)
                if tensor.isVariable
            )
            total += _PER_CHANNEL * sum(
                int(graph.tensors[op.outputs[0]].shape[-1])
                for op in graph.operators
                if self._scaled_per_channel(graph, op)
            )
        return total

    def planning(self) -> int:
        """Return the size of the records that exist before the model runs."""
        graphs = self._file.graphs
        planner = sum(_PLANNING_PER_TENSOR * len(g.tensors) for g in graphs)
        operators = (_preparing(g, op) for g in graphs for op in g.operators)
        return max(planner, *operators, 0)

    def _scaled_per_channel(self, graph: Any, op: Any) -> bool:
        kind = self._file.kind(op)
        if kind not in _SCALED_PER_CHANNEL:
            return False
        # Convolution kernels allocate scales even in float32.
        small = self._widths[graph.tensors[op.outputs[0]].type] < 4
        return small or kind != "FULLY_CONNECTED"

    def _fixed(self, number: int, index: int) -> bool:
        """Return whether a tensor is a constant of the file, or a variable."""
        tensor = self._file.graphs[number].tensors[index]
        return tensor.isVariable or self._file.constant(tensor) is not None

    def _bytes(self, number: int, index: int) -> int:
        tensor = self._file.graphs[number].tensors[index]
        return _aligned(math.prod(shape(tensor)) * self._widths[tensor.type])

    def _needs_scratch(self, graph: Any, op: Any) -> bool:
        # Sums of int8 values are int32 until they are rescaled.
        if self._file.kind(op) not in _INT32_SCRATCH:
            return False
        return self._widths[graph.tensors[op.outputs[0]].type] < 4


def _preparing(graph: Any, op: Any) -> int:
    """Return the size of the records of an operator's tensors."""
    total = 0
    for index in {int(i) for i in (*op.inputs, *op.outputs) if i >= 0}:
        total += _PREPARING_PER_TENSOR
        found = graph.tensors[index].quantization
        if found is not None and found.scale is not None and len(found.scale):
            scales = _PREPARING_PER_SCALE * len(found.scale)
            total += _aligned(_PREPARING_PER_SCALES + scales)
    return total


def _called(options: Any) -> list[int]:
    fields = (
        "condSubgraphIndex",
        "bodySubgraphIndex",
        "thenSubgraphIndex",
        "elseSubgraphIndex",
    )
    return [getattr(options, f) for f in fields if hasattr(options, f)]


def _peak(buffers: Sequence[Buffer]) -> int:
    steps = {b.first for b in buffers}
    return max(
        (sum(b.size for b in buffers if b.first <= s <= b.last) for s in steps),
        default=0,
    )


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _widths() -> dict[int, int]:
    """Return the bytes per element of each tensor type; 4 if it has no width."""
    widths = {}
    for code, name in dtype_names().items():
        bits = re.search(r"\d+", name)
        # TensorFlow Lite Micro plans whole bytes, also for numbers of 4 bits.
        widths[code] = max(int(bits[0]) // 8, 1) if bits else 4
        if name == "BOOL":
            widths[code] = 1
    return widths
