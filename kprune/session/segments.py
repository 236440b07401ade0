"""A model in segments that are compiled once, to begin a pass in the middle."""

from __future__ import annotations

import bisect
import logging
from collections.abc import Iterable
from typing import Any

import keras

from kprune.graph import walk
from kprune.session.folding import Folded
from kprune.session.folding import folds
from kprune.session.muting import muted
from kprune.session.program import Call
from kprune.session.program import Program
from kprune.session.program import Tensors


class Segments:
    """A compiled functional model, cut in front of some of its layers.

    Each segment is compiled when it is needed first, and serves all masks. It
    reads and writes no state of the model. Where a BatchNormalization follows
    a convolution, both are computed as one.

    Args:
        model: A functional model, masked or not.
        changing: For each kind of change, the layers that it changes.

    Example:

    ```python
    segments = Segments(masked, [[conv1, norm1], [conv2, norm2]])
    tensors = segments.inputs(x)
    number = segments.first([conv2, norm2])
    segments.run(tensors, 0, number)
    ```
    """

    def __init__(
        self, model: keras.Model, changing: Iterable[Iterable[Any]]
    ) -> None:
        self._program = Program(model)
        folded = folds(self._program)
        cuts = _cuts(self._program, folded)
        starts = (
            min(self._program.calls_of(layers), default=0)
            for layers in changing
        )
        self._bounds = sorted({0, *(cuts[start] for start in starts)})
        ends = [*self._bounds[1:], len(self._program.calls)]
        self._segments = [
            _Segment(model, self._program, folded, begin, end)
            for begin, end in zip(self._bounds, ends, strict=True)
        ]

    def __len__(self) -> int:
        return len(self._segments)

    def first(self, changed: Iterable[Any]) -> int:
        """Return the number of the first segment that layers are in.

        Args:
            changed: Layers of the model. Without any it is the number of
                segments.
        """
        calls = self._program.calls_of(changed)
        if not calls:
            return len(self)
        return bisect.bisect(self._bounds, min(calls)) - 1

    def inputs(self, x: Any) -> Tensors:
        """Return what the first segment reads.

        Args:
            x: Inputs, as for `model.predict`.
        """
        flat = walk.flat_inputs(self._program.functional, x)
        return dict(zip(self._program.inputs, flat, strict=True))

    def run(self, tensors: Tensors, begin: int, end: int) -> None:
        """Compute some segments, and forget what later ones do not read.

        Args:
            tensors: What is known before and, afterwards, behind them.
            begin: Number of the first segment.
            end: Number of the segment to stop in front of.
        """
        for segment in self._segments[begin:end]:
            segment.run(tensors)

    def outputs(self, tensors: Tensors) -> list[Any]:
        """Return the outputs of the model, once all segments have run."""
        return [tensors[slot] for slot in self._program.outputs]


class _Segment(keras.Model):
    """Some calls of a program as a model.

    Args:
        model: The model that they are of.
        program: All calls.
        folded: See `folds`.
        begin: Number of the first call.
        end: Number of the call behind the last one.
    """

    def __init__(
        self,
        model: keras.Model,
        program: Program,
        folded: dict[int, tuple[int, Folded]],
        begin: int,
        end: int,
    ) -> None:
        # Its calls cast, as they do in the whole model.
        super().__init__(autocast=False, name=f"segment_{begin}")
        calls = program.calls[begin:end]
        # Found by Keras, which so knows their variables.
        self.parts = [
            call.operation
            for call in calls
            if isinstance(call.operation, keras.layers.Layer)
        ]
        norms = {norm for norm, _ in folded.values()}
        self._steps: list[Call | Folded] = [
            folded[index][1] if index in folded else call
            for index, call in enumerate(calls, begin)
            if index not in norms
        ]
        made = {slot for step in self._steps for slot in step.outputs}
        read = {slot for step in self._steps for slot in step.given}
        self._given = sorted(read - made)
        self._results = sorted(
            s for s in made if program.last.get(s, -1) >= end
        )
        self._done = {
            slot for slot in read - made if program.last.get(slot, -1) < end
        }
        self.built = True
        self.compile(
            optimizer=None,
            jit_compile=model.jit_compile,
            run_eagerly=model.run_eagerly,
        )

    def call(self, inputs: Any) -> Any:
        tensors = dict(zip(self._given, inputs, strict=True))
        # What layers write or add as losses ends in the scope. It replaces
        # the one around it, and so has to know all values.
        values = [(v, v.value) for v in self.variables]
        with keras.StatelessScope(state_mapping=values):
            for step in self._steps:
                outputs = step.run([tensors[slot] for slot in step.given])
                tensors.update(zip(step.outputs, outputs, strict=True))
        return [tensors[slot] for slot in self._results]

    def run(self, tensors: Tensors) -> None:
        """Replace what is read here for the last time by what is computed."""
        results = self._predict([tensors[slot] for slot in self._given])
        for slot in self._done:
            del tensors[slot]
        tensors.update(zip(self._results, results, strict=True))

    def _predict(self, given: list[Any]) -> Any:
        if keras.config.backend() != "tensorflow":
            return self.predict_on_batch(given)
        # The same without a copy of each tensor as an array, and back.
        self.make_predict_function()
        # It takes many models, traced once each, for one traced many times.
        with muted(logging.getLogger("tensorflow"), logging.ERROR):
            return self.predict_function([(given,)])


def _cuts(program: Program, folded: dict[int, tuple[int, Folded]]) -> list[int]:
    """Return for each call the best place in front of it to cut the model.

    What has no weights, as padding and activations, goes to the segment that
    reads it, where the fewest tensors go from one segment to the next.
    """
    made: dict[int, int] = {}
    forbidden: set[int] = set()
    for index, (norm, _) in folded.items():
        forbidden.update(range(index + 1, norm + 1))
    for index, call in enumerate(program.calls):
        made.update(dict.fromkeys(call.outputs, index))
        for tensor, slot in zip(call.tensors, call.given, strict=True):
            # Masks of padding hang on tensors and would be lost.
            if getattr(tensor, "_keras_mask", None) is not None:
                forbidden.update(range(made.get(slot, -1) + 1, index + 1))
    crossing = [0] * (len(program.calls) + 1)
    for slot, last in program.last.items():
        for index in range(made.get(slot, -1) + 1, last + 1):
            crossing[index] += 1
    cuts: list[int] = []
    for index in range(len(program.calls)):
        best = index
        if index and index in forbidden:
            best = cuts[-1]
        elif index and not getattr(
            program.calls[index - 1].operation, "variables", ()
        ):
            before = cuts[-1]
            if crossing[before] < crossing[index]:
                best = before
        cuts.append(best)
    return cuts
