"""The memory of activations as a function of the channels that groups keep."""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

import numpy as np

from kprune.cost.evaluator import parted
from kprune.cost.model import CostModel
from kprune.export.micro.arena import ALIGNMENT
from kprune.export.micro.arena import estimate_arena
from kprune.export.micro.arena import lifetimes
from kprune.graph import ChannelGraph
from kprune.latency.conversion import Conversion
from kprune.latency.layout import Width
from kprune.latency.runtimes.base import Runtime
from kprune.latency.whole import Whole
from kprune.tflite import Flatbuffer
from kprune.tflite import shape

KEY = "ram"


class Memory:
    """Size in bytes of a model's activations.

    `moments` estimates it while each operator runs: the operator's inputs and
    output, and all tensors that wait for a later operator, are alive. The largest
    of these sizes is a lower limit for any memory plan. A call returns the size of
    the actual plan, or a compiler's, for one width at a time.

    Args:
        conversion: The model.
        runtime: Runtime whose memory counts. Defaults to kprune's plan of the arena
            of TensorFlow Lite Micro.

    Raises:
        ValueError: The runtime keeps no activations in the memory that counts.
    """

    def __init__(
        self, conversion: Conversion, runtime: Runtime | None = None
    ) -> None:
        estimate = None if runtime is None else runtime.memory
        self._whole = Whole(conversion, estimate or _planned)
        content = conversion.contents[0]
        file = Flatbuffer(content)
        graph = file.graphs[0]
        axes = conversion.tensor_axes()
        block = 1 if runtime is None else runtime.block
        self.stairs = frozenset() if block == 1 else frozenset({KEY})
        outside = {int(n) for n in (*graph.inputs, *graph.outputs)}
        steps = range(1, 1 + len(graph.operators))
        self._activations = _Tensors(steps)
        for life in lifetimes(content):
            dims = shape(graph.tensors[life.tensor])
            mine = axes.get(life.tensor, {})
            inside = life.tensor not in outside and len(dims) == 4
            size = _Size(dims, mine, life.itemsize, block if inside else 1)
            self._activations.add(size, life.first, life.last)
        self._weights = _Tensors(steps)
        self._ahead = 0 if runtime is None else runtime.ahead
        if runtime is not None and self._ahead:
            for step, op in zip(steps, graph.operators, strict=True):
                for index in map(int, op.inputs):
                    data = file.constant(graph.tensors[index])
                    if data is not None:
                        dims = shape(graph.tensors[index])
                        each = max(1, len(data) // max(1, int(np.prod(dims))))
                        mine = axes.get(index, {})
                        size = _Constants(dims, mine, each, runtime.step)
                        self._weights.add(size, step, step)
        self._scale = 1.0
        full = np.asarray(conversion.kept[0])
        if not self(full):
            raise ValueError(
                "The device keeps no activations in this memory, so there is nothing "
                "to reduce. Choose another memory mode."
            )
        self._scale = self(full) / float(self.moments(full[None]).max())

    def moments(self, kept: np.ndarray) -> np.ndarray:
        """Estimate the bytes alive while each operator runs.

        Args:
            kept: `(n, groups)` channels that each group keeps.

        Returns:
            `(n, moments)`.
        """
        weights = np.minimum(self._weights.alive(kept), self._ahead)
        return self._scale * (self._activations.alive(kept) + weights)

    def __call__(self, kept: np.ndarray) -> float:
        """Return the bytes in the actual plan, or a compiler's.

        Args:
            kept: `(groups,)` channels that each group keeps.
        """
        return self._whole(kept)


def _planned(content: bytes) -> float:
    return float(estimate_arena(content).planned)


class _Tensors:
    """Tensors and the moments at which they are alive.

    Args:
        moments: Indices of all moments.
    """

    def __init__(self, moments: range) -> None:
        self._moments = np.array(moments)
        self._sizes: list[_Size] = []
        self._spans: list[np.ndarray] = []

    def add(self, size: _Size, first: int, last: int) -> None:
        """Add a tensor that is alive from moment `first` to `last`, inclusive."""
        self._sizes.append(size)
        self._spans.append((first <= self._moments) & (self._moments <= last))

    def alive(self, kept: np.ndarray) -> np.ndarray:
        """Return the bytes alive at each moment, of shape `(n, moments)`."""
        total = np.zeros((len(kept), len(self._moments)))
        for size, span in zip(self._sizes, self._spans, strict=True):
            total += size.of(kept)[:, None] * span
        return total


class _Size:
    """Size in bytes of a tensor.

    Args:
        dims: Its shape in the unpruned model.
        axes: Axes that vary.
        itemsize: Bytes per element.
        block: Number of channels whose multiples the device rounds up to.
    """

    def __init__(
        self,
        dims: tuple[int, ...],
        axes: Mapping[int, Width],
        itemsize: int,
        block: int,
    ) -> None:
        self._channels = len(dims) - 1
        self._block = block
        self._axes = axes
        fixed = [
            self._blocks(n, a) for a, n in enumerate(dims) if a not in axes
        ]
        self._bytes = itemsize * int(np.prod(fixed))

    def _blocks(self, length: Any, axis: int) -> Any:
        block = self._block if axis == self._channels else 1
        # The device does not round up fewer channels than half a block.
        whole = -(-length // block) * block
        return np.where(2 * length < block, length, whole)

    def of(self, kept: np.ndarray) -> np.ndarray:
        """Return the bytes `(n,)` for kept channels `(n, groups)`."""
        size = np.full(len(kept), self._bytes)
        for axis, width in self._axes.items():
            size = size * self._blocks(width.of(kept), axis)
        return -(-size // ALIGNMENT) * ALIGNMENT


class _Constants(_Size):
    """Size of constants, which are encoded in blocks along all axes that vary."""

    def _blocks(self, length: Any, axis: int) -> Any:
        block = self._block if axis in self._axes else 1
        return -(-length // block) * block


class RamCostModel(CostModel):
    """Costs of a model, including the memory of its activations.

    Args:
        graph: The model's channels.
        memory: Its memory.
        base: Its other costs.
    """

    maxima = frozenset({KEY})

    def __init__(
        self, graph: ChannelGraph, memory: Memory, base: CostModel
    ) -> None:
        super().__init__(graph)
        self.memory = memory
        self.base = base
        self.stairs = base.stairs | memory.stairs
        self.estimated = base.estimated | {KEY}

    def evaluate(self, kept: Any) -> dict[str, Any]:
        """Return the cost, with `"ram"` in bytes.

        For many counts at once, the memory is estimated by its largest moment.
        """
        kept = np.asarray(kept)
        costs = self.base.evaluate(kept)
        if kept.ndim == 1:
            return {**costs, KEY: self.memory(kept)}
        return {**costs, KEY: self.memory.moments(kept).max(axis=-1)}

    def excess(self, kept: Any, budgets: Mapping[str, float]) -> dict[str, Any]:
        mine, others = parted(budgets, {KEY})
        found = self.base.excess(kept, others) if others else {}
        if mine:
            kept = np.asarray(kept)
            over = self.memory.moments(np.atleast_2d(kept)) - budgets[KEY]
            sums = np.maximum(over, 0.0).sum(axis=-1)
            found[KEY] = sums if kept.ndim > 1 else sums[0]
        return found

    def savings(
        self,
        kept: np.ndarray,
        group: int,
        widths: np.ndarray,
        budgets: Mapping[str, float],
    ) -> dict[str, np.ndarray]:
        mine, others = parted(budgets, {KEY})
        found = super().savings(kept, group, widths, mine) if mine else {}
        if others:
            found |= self.base.savings(kept, group, widths, others)
            refused = np.any([s == -np.inf for s in found.values()], axis=0)
            found = {n: np.where(refused, -np.inf, s) for n, s in found.items()}
        return found

    def near(self, group: int, names: Iterable[str]) -> Collection[int]:
        names = set(names)
        if KEY in names:
            return range(len(self.sizes))
        return self.base.near(group, names)
