"""A model split into compiled segments, so that a pass can begin in the middle."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras

from kprune.data.arrays import count
from kprune.data.arrays import cut
from kprune.graph import walk
from kprune.masking.devices import undivided
from kprune.session.folding import FoldedCall
from kprune.session.folding import folds
from kprune.session.program import Program
from kprune.session.program import ProgramCall
from kprune.session.program import Tensors

SLICE = 512
"""Largest number of samples per batch."""

BYTES = 2**25
"""Largest size of a tensor for which a batch has more than one sample."""


class Segments:
    """A compiled functional model, split in front of some of its layers.

    It is split where the layers of a group begin, and in front of every call of a
    watched layer. Each segment is compiled on first use, once for all masks. It
    does not change the state of the model. A convolution and the
    BatchNormalization after it are computed as one.

    Args:
        model: A functional model, masked or not.
        changing: Lists of layers that change together.
        watched: Layers whose inputs `Run.inputs` yields.

    Example:

    ```python
    segments = Segments(masked, [[conv1, norm1], [conv2, norm2]])
    run = segments.start(x)
    before = run.outputs(0)
    with temporary({"conv2": [1, 0, 1, 1]}):
        after = run.outputs(segments.first([conv2, norm2]))
    ```
    """

    def __init__(
        self,
        model: keras.Model,
        changing: Iterable[Iterable[Any]],
        watched: Iterable[Any] = (),
    ) -> None:
        self.program = Program(model)
        folded = folds(self.program)
        seen = self.program.calls_of(watched)
        cuts = _cuts(self.program, folded, seen)
        starts = {
            min(self.program.calls_of(some), default=0) for some in changing
        }
        self._bounds = sorted({0, *(cuts[call] for call in starts | seen)})
        ends = [*self._bounds[1:], len(self.program.calls)]
        self._segments = [
            Segment(model, self.program, folded, range(begin, end), seen)
            for begin, end in zip(self._bounds, ends, strict=True)
        ]

        self.batch_size = _batch_size(self.program)

    def __len__(self) -> int:
        return len(self._segments)

    def __iter__(self) -> Iterator[Segment]:
        return iter(self._segments)

    @property
    def begin_at_watched(self) -> bool:
        """Whether a segment begins at every call of a watched layer."""
        return all(
            call is segment.first
            for segment in self._segments
            for call in segment.watched
        )

    def first(self, changed: Iterable[Any]) -> int:
        """Return the number of the first segment with one of some layers.

        Args:
            changed: Layers of the model.

        Returns:
            The number, or `len(self)` without any layers.
        """
        calls = self.program.calls_of(changed)
        if not calls:
            return len(self)
        return bisect.bisect(self._bounds, min(calls)) - 1

    def runs(self, x: Any) -> Iterator[Run]:
        """Yield a run for every `batch_size` samples.

        Args:
            x: Inputs, as for `model.predict`.
        """
        for first in range(0, count(x), self.batch_size):
            yield self.start(cut(x, first, first + self.batch_size))

    def start(self, x: Any) -> Run:
        """Return a run on one batch, positioned before the first segment.

        Args:
            x: Inputs, as for `model.predict`.
        """
        flat = walk.flat_inputs(self.program.functional, x)
        inputs = dict(zip(self.program.inputs, flat, strict=True))
        return Run(self._segments, inputs, self.program.outputs)


class Run:
    """One batch on its way through the segments of a model.

    Only tensors that later segments read are kept. Go from front to back: a step
    back computes everything again from the inputs.

    Args:
        segments: The segments.
        inputs: The model's inputs by slot.
        outputs: Slots of the model's outputs.
    """

    def __init__(
        self,
        segments: Sequence[Segment],
        inputs: Tensors,
        outputs: Sequence[int],
    ) -> None:
        self._segments = segments
        self._inputs = inputs
        self._outputs = outputs
        self._position = len(segments) + 1

    def inputs(self) -> Iterator[tuple[ProgramCall, list[Any]]]:
        """Yield the calls of watched layers with their inputs."""
        tensors = dict(self._inputs)
        for segment in self._segments:
            segment.run(tensors)
            for call in segment.watched:
                yield call, [tensors[slot] for slot in call.given]
            segment.forget(tensors)

    def outputs(self, begin: int) -> list[Any]:
        """Return the outputs of the model with its current masks and weights.

        Args:
            begin: Number of the first segment to compute again. Segments before
                it must not have changed.
        """
        if begin < self._position:
            self._position, self._held = 0, dict(self._inputs)
        self._run(self._held, self._position, begin)
        self._position = begin
        tensors = dict(self._held)
        self._run(tensors, begin, len(self._segments))
        return [tensors[slot] for slot in self._outputs]

    def _run(self, tensors: Tensors, begin: int, end: int) -> None:
        for segment in self._segments[begin:end]:
            segment.run(tensors)
            segment.forget(tensors)


class Segment(keras.Model):
    """A model of some calls of a program.

    Args:
        model: The model that the calls belong to.
        program: All calls.
        folded: See `folds`.
        numbers: Numbers of the segment's calls.
        watched: Numbers of the calls whose inputs are returned.
    """

    def __init__(
        self,
        model: keras.Model,
        program: Program,
        folded: dict[int, tuple[int, FoldedCall]],
        numbers: range,
        watched: set[int],
    ) -> None:
        # The layers cast their inputs, as in the whole model.
        super().__init__(autocast=False, name=f"segment_{numbers.start}")
        self.watched = [program.calls[n] for n in numbers if n in watched]
        calls = program.calls[numbers.start : numbers.stop]
        self.first = calls[0]
        # An attribute, so that Keras finds the layers and their variables.
        self.parts = [
            call.operation
            for call in calls
            if isinstance(call.operation, keras.layers.Layer)
        ]
        norms = {norm for norm, _ in folded.values()}
        self._steps: list[ProgramCall | FoldedCall] = [
            folded[index][1] if index in folded else call
            for index, call in enumerate(calls, numbers.start)
            if index not in norms
        ]
        made = {slot for step in self._steps for slot in step.outputs}
        read = {slot for step in self._steps for slot in step.given}
        self.given = sorted(read - made)
        self._shapes = [program.tensors[slot].shape for slot in self.given]
        wanted = {slot for call in self.watched for slot in call.given}
        later = {s for s, last in program.last.items() if last >= numbers.stop}
        self.results = sorted(made & (wanted | later))
        self.done = {*self.given, *self.results} - later
        self._function: Any = None
        self.built = True
        self.compile(
            optimizer=None,
            jit_compile=model.jit_compile,
            run_eagerly=model.run_eagerly,
        )

    def call(self, inputs: Any) -> Any:
        tensors = dict(zip(self.given, inputs, strict=True))
        # The scope discards updates and losses of layers. It hides the outer
        # scope, so it needs all values.
        values = [(v, v.value) for v in self.variables]
        with keras.StatelessScope(state_mapping=values):
            for step in self._steps:
                outputs = step.run([tensors[slot] for slot in step.given])
                tensors.update(zip(step.outputs, outputs, strict=True))
        return [tensors[slot] for slot in self.results]

    def run(self, tensors: Tensors) -> None:
        """Compute the segment and add its outputs to `tensors`."""
        results = self.compute([tensors[slot] for slot in self.given])
        tensors.update(zip(self.results, results, strict=True))

    def forget(self, tensors: Tensors) -> None:
        """Remove the tensors that no later segment reads."""
        for slot in self.done:
            del tensors[slot]

    def compute(self, given: Sequence[Any]) -> list[Any]:
        """Return the tensors for the slots `results`.

        Args:
            given: Tensors for the slots `given`.
        """
        if keras.config.backend() != "tensorflow":
            with undivided():
                return self.predict_on_batch(list(given))
        # Like predict_on_batch, but without converting tensors to arrays and back,
        # and without a strategy, of which each replica would compute all samples.
        if self.run_eagerly:
            return self(list(given))
        if self._function is None:
            self._function = self._traced(given)
        return self._function(list(given))

    def _traced(self, given: Sequence[Any]) -> Any:
        """Return the TensorFlow function, traced once for batches of any size.

        With a known batch size, TensorFlow fuses more operations, and oneDNN
        crashes on a fused Conv2D, BiasAdd and Add if an operand is a Pad, as in
        the shortcuts of CIFAR-10 ResNets.

        Args:
            given: The segment's inputs, which set the dtypes.
        """
        import tensorflow as tf

        specs = [
            tf.TensorSpec(shape, tensor.dtype)
            for shape, tensor in zip(self._shapes, given, strict=True)
        ]
        function = tf.function(
            self, autograph=False, jit_compile=self.jit_compile or None
        )
        function.get_concrete_function(specs)
        return function


def _batch_size(program: Program) -> int:
    """Return the number of samples per batch: large ones save time, but take memory."""
    largest = max(
        math.prod(size or 1 for size in tensor.shape[1:])
        for tensor in program.tensors
    )
    return min(max(BYTES // (4 * largest), 1), SLICE)


def _cuts(
    program: Program,
    folded: dict[int, tuple[int, FoldedCall]],
    watched: set[int],
) -> list[int]:
    """Return, for each call, the best place at or before it to cut the model.

    Calls without weights, such as padding and activations, join the following
    segment if fewer tensors then cross the cut, and its first call is not
    watched.
    """
    made: dict[int, int] = {}
    forbidden: set[int] = set()
    for index, (norm, _) in folded.items():
        forbidden.update(range(index + 1, norm + 1))
    for index, call in enumerate(program.calls):
        made.update(dict.fromkeys(call.outputs, index))
        for tensor, slot in zip(call.tensors, call.given, strict=True):
            # Keras masks are attributes of tensors, and a cut would lose them.
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
        elif (
            index
            and index not in watched
            and not getattr(program.calls[index - 1].operation, "variables", ())
        ):
            before = cuts[-1]
            if crossing[before] < crossing[index]:
                best = before
        cuts.append(best)
    return cuts
