"""Paired runs of a model before and after pruning, call by call."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from kprune.graph import walk
from kprune.graph.values import read
from kprune.masking import DynamicGate
from kprune.masking import gates
from kprune.masking.state import WeightSnapshot
from kprune.masking.state import no_gradients
from kprune.session.program import ProgramCall
from kprune.session.program import Values
from kprune.session.segments import Segment
from kprune.session.segments import Segments

SLICE = 128
"""Number of samples per batch of a run call by call."""

Parts = list[Any]
"""One tensor for all samples, as a list of batches."""


@dataclasses.dataclass(frozen=True)
class Pair:
    """One tensor for all samples, before and after pruning.

    Args:
        parts_before: Its values before pruning, as tensors of the backend.
        parts_after: Its values now; the same list if they are equal.
    """

    parts_before: Parts
    parts_after: Parts

    @property
    def differs(self) -> bool:
        """Whether pruning has changed it."""
        return self.parts_after is not self.parts_before

    @property
    def before(self) -> np.ndarray:
        """Its values before pruning, as one array."""
        return _whole(self.parts_before)

    @property
    def after(self) -> np.ndarray:
        """Its values now, as one array."""
        return _whole(self.parts_after)


class Step:
    """One call of a layer or operation, before it is computed with the new weights.

    Args:
        node: The call.
        run: The run of the functional model that it belongs to.
        given: The symbolic tensors it reads.
        before: Values of each output before pruning; empty in a run by segments.
    """

    def __init__(
        self,
        node: Any,
        run: _Run,
        given: list[Any],
        before: list[Parts],
    ) -> None:
        self.node = node
        self.run = run
        self.before = before
        self._given = given

    @property
    def operation(self) -> Any:
        """The layer or operation, which is a `FilterMask` if it is wrapped."""
        return self.node.operation

    @property
    def layer(self) -> Any:
        """The layer itself."""
        return walk.unwrap(self.node.operation)

    @property
    def calls(self) -> int:
        """How often the model calls the layer."""
        return self.run.paired.calls[id(self.node.operation)]

    @property
    def inputs(self) -> list[Pair]:
        """All input tensors."""
        return [self.run.tensors[id(t)] for t in self._given]

    @property
    def input(self) -> Pair:
        """The first input tensor."""
        return self.inputs[0]

    def sums(self) -> Pair:
        """Return the layer's outputs without its activation, before and now.

        The latter are computed with the current weights.
        """
        with self._without_activation():
            (after,) = self.run.present(self.node, self._given)
        return Pair(self.sums_before(), after)

    def sums_before(self) -> Parts:
        """Return the layer's outputs before pruning, without its activation."""
        with self._without_activation() as plain:
            (before,) = (
                self.before if plain else self.run.past(self.node, self._given)
            )
        return before

    def past(self) -> contextlib.AbstractContextManager[Any]:
        """Return a scope in which the layer has its weights before pruning."""
        state = self.run.paired.past
        none = contextlib.nullcontext()
        return none if state is None else state.of(self.operation)

    @contextlib.contextmanager
    def _without_activation(self) -> Iterator[bool]:
        """Return a context in which the layer has no activation.

        Yields:
            Whether it has none anyway.
        """
        activation = getattr(self.layer, "activation", None)
        plain = activation in (None, keras.activations.linear)
        if plain:
            yield True
            return
        self.layer.activation = keras.activations.linear
        try:
            yield False
        finally:
            self.layer.activation = activation

    @property
    def channels_first(self) -> bool:
        """Whether the layer's channels are on axis 1."""
        return getattr(self.layer, "data_format", None) == "channels_first"

    def only_reader(self, tensor: Any) -> Any:
        """Return the only call that reads a tensor, or None if there are several."""
        readers = self.run.readers.get(id(tensor), [])
        return readers[0] if len(readers) == 1 else None


Visitor = Callable[[Step], None]


class PairedRun:
    """A masked model with its weights before and after pruning, on the same samples.

    Args:
        masked: The masked model after pruning.
        before: Its weights before pruning; `None` for the current ones, so that
            nothing differs.
        inputs: Samples, as for `model.predict`; `None` to run no samples.
        segments: If given, the model runs by these compiled segments, and only the
            calls that segments begin with are visited. The model has no nested
            models. Defaults to call by call.

    Raises:
        ValueError: If the model has gates that depend on the sample.

    Example:

    ```python
    before = session.snapshot()
    session.remove(masks)
    paired = PairedRun(masked, before, x_train[:256])
    paired.visit(lambda step: print(step.layer.name, step.input.differs))
    ```
    """

    def __init__(
        self,
        masked: keras.Model,
        before: WeightSnapshot | None,
        inputs: Any,
        segments: Segments | None = None,
    ) -> None:
        _require_no_dynamic_gates(masked)
        self.masked = masked
        self.past = before
        self.segments = segments
        self._functional = walk.require_functional(masked)
        self.inputs = (
            [] if inputs is None else walk.flat_inputs(self._functional, inputs)
        )
        self.calls: dict[int, int] = {}
        self._count(self._functional)

    def visit(self, visit: Visitor) -> list[Pair]:
        """Run all calls in order of execution.

        Args:
            visit: Function called before each call is computed with the current
                weights, which it may change.

        Returns:
            The model's outputs.
        """
        pairs = []
        size = SLICE if self.segments is None else self.segments.batch_size
        for array in self.inputs:
            parts = _split(array, size)
            pairs.append(Pair(parts, parts))
        run = _Run(self, self._functional, visit)
        with no_gradients():
            if self.segments is not None:
                return run.segmented(pairs, self.segments)
            return run.outputs(pairs)

    def _count(self, functional: keras.Model) -> None:
        for node in walk.nodes(functional):
            key = id(node.operation)
            self.calls[key] = self.calls.get(key, 0) + 1
            inner = walk.functional_of(node.operation)
            if inner is not None:
                self._count(inner)


def _require_no_dynamic_gates(masked: keras.Model) -> None:
    # Also closed ones pass what they predict from layer to layer.
    if any(isinstance(gate, DynamicGate) for gate in gates(masked).values()):
        raise ValueError(
            f"Model '{masked.name}' has gates that depend on the sample, so its layers "
            "cannot run one by one, as this repair does. Repair the static model: "
            "kprune.masking.close_gates(masked), then kprune.rebuild(masked)."
        )


class _Run:
    """A paired run of one functional model, or of one call of a nested model."""

    def __init__(
        self, paired: PairedRun, functional: keras.Model, visit: Visitor
    ) -> None:
        self.paired = paired
        self.functional = functional
        self.visit = visit
        self.tensors: dict[int, Pair] = {}
        self.readers: dict[int, list[Any]] = {}
        for node in walk.nodes(functional):
            given = walk.tensors_of(node.arguments.args, node.arguments.kwargs)
            for tensor in {id(t): t for t in given}.values():
                self.readers.setdefault(id(tensor), []).append(node)
        # Outputs are read outside, so they never have a single reader.
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

    def segmented(self, inputs: list[Pair], segments: Segments) -> list[Pair]:
        """Return the outputs, computed segment by segment."""
        tensors = segments.program.tensors
        for slot, pair in zip(segments.program.inputs, inputs, strict=True):
            self.tensors[id(tensors[slot])] = pair
        for segment in segments:
            first = segment.first
            self.visit(Step(first.node, self, list(first.tensors), []))
            given = [self.tensors[id(tensors[slot])] for slot in segment.given]
            for slot, pair in zip(
                segment.results, self._segment(segment, given), strict=True
            ):
                self.tensors[id(tensors[slot])] = pair
            for slot in segment.done:
                del self.tensors[id(tensors[slot])]
        return [self.tensors[id(t)] for t in self.functional.outputs]

    def _segment(self, segment: Segment, pairs: list[Pair]) -> list[Pair]:
        def compute(parts: Iterator[Parts]) -> list[Parts]:
            results = map(segment.compute, zip(*parts, strict=True))
            return [list(parts) for parts in zip(*results, strict=True)]

        state = self.paired.past
        past: Any = contextlib.nullcontext(False)
        with past if state is None else state.back_in(segment) as changed:
            before = compute(pair.parts_before for pair in pairs)
        if not changed and not any(pair.differs for pair in pairs):
            return [Pair(value, value) for value in before]
        return _pairs(before, compute(pair.parts_after for pair in pairs))

    def _nested(self, node: Any, given: list[Any]) -> list[Pair] | None:
        inner = walk.functional_of(node.operation)
        if inner is None:
            return None
        run = _Run(self.paired, inner, self.visit)
        return run.outputs([self.tensors[id(t)] for t in given])

    def _call(self, node: Any, given: list[Any]) -> list[Pair]:
        pairs = [self.tensors[id(t)] for t in given]
        before = self.past(node, given)
        self.visit(Step(node, self, given, before))
        state = self.paired.past
        changed = state is not None and state.differs(node.operation)
        if not changed and not any(pair.differs for pair in pairs):
            return [Pair(value, value) for value in before]
        return _pairs(before, self.present(node, given))

    def past(self, node: Any, given: list[Any]) -> list[Parts]:
        """Return a call's outputs before pruning."""
        values = [self.tensors[id(t)].parts_before for t in given]
        state = self.paired.past
        call = _call_of(node, given)
        past = contextlib.nullcontext()
        with past if state is None else state.of(node.operation):
            weights = call.values()
        return _compute(call, weights, values)

    def present(self, node: Any, given: list[Any]) -> list[Parts]:
        """Return a call's outputs now."""
        values = [self.tensors[id(t)].parts_after for t in given]
        call = _call_of(node, given)
        return _compute(call, call.values(), values)


def _pairs(before: list[Parts], after: list[Parts]) -> list[Pair]:
    # Equal values share one list, which `Pair.differs` recognises.
    return [
        Pair(b, b) if _equal(a, b) else Pair(b, a)
        for b, a in zip(before, after, strict=True)
    ]


def _compute(
    call: ProgramCall, weights: Values, given: list[Parts]
) -> list[Parts]:
    """Compute a call batch by batch, if it treats samples independently."""
    sizes = [[_size(part) for part in parts] for parts in given]
    if not sizes or any(s != sizes[0] or None in s for s in sizes):
        return _compute_whole(call, weights, given)
    first = call.compute([parts[0] for parts in given], weights)
    if any(_size(x) != sizes[0][0] for x in first):
        return _compute_whole(call, weights, given)
    results = [first]
    for some in list(zip(*given, strict=True))[1:]:
        results.append(call.compute(some, weights))
    return [list(parts) for parts in zip(*results, strict=True)]


def _compute_whole(
    call: ProgramCall, weights: Values, given: list[Parts]
) -> list[Parts]:
    """Compute a call on all samples at once."""
    whole = [_joined(parts) for parts in given]
    sizes = {_size(x) for x in whole}
    return [
        _split(x, SLICE) if sizes == {_size(x)} and _size(x) else [x]
        for x in call.compute(whole, weights)
    ]


def _call_of(node: Any, given: list[Any]) -> ProgramCall:
    return ProgramCall(node, tuple(given), (), ())


def _split(value: Any, size: int) -> Parts:
    """Split an array into batches of `size` samples, as tensors of the backend."""
    return [
        keras.ops.convert_to_tensor(value[start : start + size])
        for start in range(0, len(value), size)
    ]


def _joined(parts: Parts) -> Any:
    return parts[0] if len(parts) == 1 else keras.ops.concatenate(parts)


def _whole(parts: Parts) -> np.ndarray:
    arrays = [read(part) for part in parts]
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _size(value: Any) -> int | None:
    """Return the length of the first axis, or None for scalars."""
    return int(value.shape[0]) if len(value.shape) else None


def _equal(left: Parts, right: Parts) -> bool:
    return len(left) == len(right) and all(
        a.shape == b.shape and bool(keras.ops.all(keras.ops.equal(a, b)))
        for a, b in zip(left, right, strict=True)
    )
