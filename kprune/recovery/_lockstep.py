"""Running a model before and after pruning side by side, call by call."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from kprune.graph import walk
from kprune.graph.values import read
from kprune.masking.state import State
from kprune.masking.state import no_gradients

SLICE = 128
"""Samples that one call computes at a time."""


@dataclasses.dataclass(frozen=True)
class Pair:
    """One tensor on all samples: before pruning, and after it so far."""

    before: np.ndarray
    after: np.ndarray

    @property
    def differs(self) -> bool:
        """Whether pruning has changed it."""
        return self.after is not self.before


class Step:
    """One call of one layer or operation, before it is computed again.

    Args:
        node: The call.
        run: The functional model that it belongs to, half way through.
        before: What it gave before pruning, one array for each output.
    """

    def __init__(
        self,
        node: Any,
        run: _Run,
        given: list[Any],
        before: list[np.ndarray],
    ) -> None:
        self.node = node
        self.run = run
        self.before = before
        self._given = given

    @property
    def operation(self) -> Any:
        """The layer or operation, a `FilterMask` where it is wrapped."""
        return self.node.operation

    @property
    def layer(self) -> Any:
        """The layer itself."""
        return walk.unwrap(self.node.operation)

    @property
    def calls(self) -> int:
        """How often the model calls the layer."""
        return self.run.lockstep.calls[id(self.node.operation)]

    @property
    def inputs(self) -> list[Pair]:
        """All tensors that go in."""
        return [self.run.tensors[id(t)] for t in self._given]

    @property
    def input(self) -> Pair:
        """The first tensor that goes in."""
        return self.inputs[0]

    def sums(self) -> Pair:
        """Return what the layer gives without its activation, both ways.

        What it gives after pruning is computed with its present weights.
        """
        layer, run = self.layer, self.run
        activation = getattr(layer, "activation", None)
        plain = activation in (None, keras.activations.linear)
        if not plain:
            layer.activation = keras.activations.linear
        try:
            (before,) = (
                self.before if plain else run.past(self.node, self._given)
            )
            (after,) = run.present(self.node, self._given)
        finally:
            if not plain:
                layer.activation = activation
        return Pair(before, after)

    @property
    def channels_first(self) -> bool:
        """Whether the layer's channels run along axis 1."""
        return getattr(self.layer, "data_format", None) == "channels_first"

    def only_reader(self, tensor: Any) -> Any:
        """Return the one call that reads a tensor, or None if there are more."""
        readers = self.run.readers.get(id(tensor), [])
        return readers[0] if len(readers) == 1 else None


Visit = Callable[[Step], None]


class Lockstep:
    """A masked model and its own past, on the same samples.

    Args:
        masked: The masked model, pruned already.
        before: Its weights from before it was pruned; `None` for its present
            ones, so that nothing differs.
        inputs: Samples, as for `model.predict`; `None` for who only reads
            weights.

    Example:

    ```python
    before = session.snapshot()
    session.remove(masks)
    lockstep = Lockstep(masked, before, x_train[:256])
    lockstep.visit(lambda step: print(step.layer.name, step.input.differs))
    ```
    """

    def __init__(
        self, masked: keras.Model, before: State | None, inputs: Any
    ) -> None:
        self.masked = masked
        self.past = before
        self._functional = walk.require_functional(masked)
        self.inputs = (
            [] if inputs is None else walk.flat_inputs(self._functional, inputs)
        )
        self.calls: dict[int, int] = {}
        self._count(self._functional)

    def visit(self, visit: Visit) -> list[Pair]:
        """Go through all calls in the order of computation.

        Args:
            visit: Called before each call is computed with the present
                weights, which it may change.

        Returns:
            The model's outputs.
        """
        pairs = [Pair(x, x) for x in self.inputs]
        with no_gradients():
            return _Run(self, self._functional, visit).outputs(pairs)

    def _count(self, functional: keras.Model) -> None:
        for node in walk.nodes(functional):
            key = id(node.operation)
            self.calls[key] = self.calls.get(key, 0) + 1
            inner = walk.functional_of(node.operation)
            if inner is not None:
                self._count(inner)


class _Run:
    """One functional model, or one call of a nested one."""

    def __init__(
        self, lockstep: Lockstep, functional: keras.Model, visit: Visit
    ) -> None:
        self.lockstep = lockstep
        self.functional = functional
        self.visit = visit
        self.tensors: dict[int, Pair] = {}
        self.readers: dict[int, list[Any]] = {}
        for node in walk.nodes(functional):
            given = walk.tensors_of(node.arguments.args, node.arguments.kwargs)
            for tensor in {id(t): t for t in given}.values():
                self.readers.setdefault(id(tensor), []).append(node)
        # Read by the outside.
        for tensor in functional.outputs:
            self.readers.setdefault(id(tensor), []).extend([None, None])

    def outputs(self, inputs: list[Pair]) -> list[Pair]:
        for tensor, pair in zip(self.functional.inputs, inputs, strict=True):
            self.tensors[id(tensor)] = pair
        left = {key: len(nodes) for key, nodes in self.readers.items()}
        for node in walk.nodes(self.functional):
            given = walk.tensors_of(node.arguments.args, node.arguments.kwargs)
            pairs = self._nested(node, given) or self._call(node, given)
            for tensor, pair in zip(node.outputs, pairs, strict=True):
                self.tensors[id(tensor)] = pair
            for key in {id(t) for t in given}:
                left[key] -= 1
                if not left[key]:
                    del self.tensors[key]
        return [self.tensors[id(t)] for t in self.functional.outputs]

    def _nested(self, node: Any, given: list[Any]) -> list[Pair] | None:
        inner = walk.functional_of(node.operation)
        if inner is None:
            return None
        run = _Run(self.lockstep, inner, self.visit)
        return run.outputs([self.tensors[id(t)] for t in given])

    def _call(self, node: Any, given: list[Any]) -> list[Pair]:
        pairs = [self.tensors[id(t)] for t in given]
        before = self.past(node, given)
        self.visit(Step(node, self, given, before))
        weights = getattr(node.operation, "variables", ())
        changed = weights and self.lockstep.past is not None
        if not changed and not any(pair.differs for pair in pairs):
            return [Pair(value, value) for value in before]
        after = self.present(node, given)
        # What is equal is one array, which says so all the way down.
        return [
            Pair(b, b) if np.array_equal(a, b) else Pair(b, a)
            for b, a in zip(before, after, strict=True)
        ]

    def past(self, node: Any, given: list[Any]) -> list[np.ndarray]:
        """Return what a call gave before pruning."""
        values = [self.tensors[id(t)].before for t in given]
        state = self.lockstep.past
        if state is None:
            return self._compute(node, given, values)
        with state.of(node.operation):
            return self._compute(node, given, values)

    def present(self, node: Any, given: list[Any]) -> list[np.ndarray]:
        """Return what a call gives now."""
        values = [self.tensors[id(t)].after for t in given]
        return self._compute(node, given, values)

    def _compute(
        self, node: Any, given: list[Any], values: list[np.ndarray]
    ) -> list[np.ndarray]:
        """Compute a call, some samples at a time where that is possible."""
        size = len(values[0]) if values and values[0].ndim else 0
        sliced = all(v.ndim and len(v) == size for v in values)
        if sliced and size > SLICE:
            first = self._run(node, given, [v[:SLICE] for v in values])
            if all(v.ndim and len(v) == SLICE for v in first):
                parts = [first]
                for start in range(SLICE, size, SLICE):
                    some = [v[start : start + SLICE] for v in values]
                    parts.append(self._run(node, given, some))
                return [np.concatenate(p) for p in zip(*parts, strict=True)]
        return self._run(node, given, values)

    def _run(
        self, node: Any, given: list[Any], values: list[np.ndarray]
    ) -> list[np.ndarray]:
        tensors = {
            id(t): keras.ops.convert_to_tensor(v)
            for t, v in zip(given, values, strict=True)
        }
        args, kwargs = node.arguments.fill_in(tensors)
        outputs = node.operation(*args, **kwargs)
        return [read(x) for x in keras.tree.flatten(outputs)]
