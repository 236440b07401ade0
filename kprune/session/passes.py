"""Outputs on fixed samples, computed from the first changed layer on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from kprune.graph import walk
from kprune.graph.values import read
from kprune.masking.state import no_gradients
from kprune.session.program import Program
from kprune.session.program import Tensors
from kprune.session.program import Values

SLICE = 256
"""Samples that one call computes at a time."""


class PartialPasses:
    """A model's outputs on fixed samples, while a few layers change.

    What comes before the first changed layer is kept from one pass to the next,
    and so is what no changed layer reaches. Only the tensors between two places
    of the model are held, those that the layers behind still read: go through
    the model from the front to the back, see `first`, since a step back begins
    with the inputs again. What a pass gives is what a whole pass would give,
    with the same operations.

    Weights and masks may differ in the layers that are named as changed, and
    in no others; see `forget`.

    Args:
        model: A functional model, masked or not.
        inputs: Samples, as for `model.predict`.
        size: Samples that are computed together.

    Example:

    ```python
    passes = PartialPasses(masked, x_train[:512])
    before = passes.outputs()
    with temporary({"conv1": [1, 0, 1, 1]}):
        after = passes.outputs(layers_with_those_masks)
    ```
    """

    def __init__(
        self, model: keras.Model, inputs: Any, size: int = SLICE
    ) -> None:
        self.program = Program(model)
        flat = walk.flat_inputs(self.program.functional, inputs)
        self._slices = [
            [x[start : start + size] for x in flat]
            for start in range(0, len(flat[0]), size)
        ]
        self.forget()

    def forget(self) -> None:
        """Begin anew, with the weights and masks that the model has now."""
        self._position = 0
        self._held: list[Tensors] = []
        self._values: dict[int, Values] = {}

    def first(self, changed: Iterable[Any]) -> int:
        """Return the number of the first call that computes with them.

        Args:
            changed: Layers or variables of the model.
        """
        calls = self.program.calls_of(changed)
        return min(calls, default=len(self.program.calls))

    def outputs(self, changed: Iterable[Any] = ()) -> list[np.ndarray]:
        """Return the outputs, one array for each output of the model.

        Args:
            changed: Layers or variables that are not what they were when the
                passes were made; all others must be.
        """
        calls = self.program.calls_of(changed)
        with no_gradients():
            self._move_to(min(calls, default=self._position))
            plan = _Plan(self.program, calls, self._held[0])
            values = {c: self.program.calls[c].values() for c in calls}
            parts = [self._run(held, plan, values) for held in self._held]
        return [np.concatenate(p) for p in zip(*parts, strict=True)]

    def _move_to(self, position: int) -> None:
        """Hold the tensors that calls from a position on read."""
        if not self._held or position < self._position:
            self._held = [
                dict(zip(self.program.inputs, map(_tensor, some), strict=True))
                for some in self._slices
            ]
            self._position = 0
        for held in self._held:
            for index in range(self._position, position):
                call = self.program.calls[index]
                if any(slot not in held for slot in call.outputs):
                    self._compute(index, held, self._known(index))
                for slot in (*call.given, *call.outputs):
                    if self.program.last.get(slot, -1) <= index:
                        held.pop(slot, None)
        self._position = position

    def _run(
        self, held: Tensors, plan: _Plan, values: dict[int, Values]
    ) -> list[np.ndarray]:
        tensors = dict(held)
        for index in plan.calls:
            changed = values.get(index)
            known = self._known(index) if changed is None else changed
            self._compute(index, tensors, known)
            for slot in plan.done_after(index):
                del tensors[slot]
        # Other passes read them too, whatever has changed.
        held.update({slot: tensors[slot] for slot in plan.keep})
        return [read(tensors[slot]) for slot in self.program.outputs]

    def _known(self, index: int) -> Values:
        if index not in self._values:
            self._values[index] = self.program.calls[index].values()
        return self._values[index]

    def _compute(self, index: int, tensors: Tensors, values: Values) -> None:
        call = self.program.calls[index]
        given = [tensors[slot] for slot in call.given]
        outputs = call.compute(given, values)
        tensors.update(zip(call.outputs, outputs, strict=True))


class _Plan:
    """Which calls a pass takes, and what of it stays for the next one.

    Args:
        program: The model.
        changed: Calls with other weights or masks than before.
        held: What is known already, by slot.
    """

    def __init__(
        self, program: Program, changed: set[int], held: Tensors
    ) -> None:
        dirty: set[int] = set()
        touched: set[int] = set()
        for index, call in enumerate(program.calls):
            if index in changed or not dirty.isdisjoint(call.given):
                touched.add(index)
                dirty.update(call.outputs)
        wanted = set(program.outputs)
        for index in touched:
            wanted.update(program.calls[index].given)
        # Clean tensors that the touched calls read.
        self.keep = {s for s in wanted if s not in dirty and s not in held}
        missing = set(self.keep)
        for index in range(len(program.calls) - 1, -1, -1):
            call = program.calls[index]
            if index not in touched and not missing.isdisjoint(call.outputs):
                touched.add(index)
                missing.update(s for s in call.given if s not in held)
        self.calls = sorted(touched)
        last: dict[int, int] = {}
        for index in self.calls:
            call = program.calls[index]
            last.update(dict.fromkeys((*call.outputs, *call.given), index))
        self._done: dict[int, list[int]] = {}
        for slot, index in last.items():
            if slot not in self.keep and slot not in program.outputs:
                self._done.setdefault(index, []).append(slot)

    def done_after(self, index: int) -> list[int]:
        """Return slots whose tensors no later call of the pass reads."""
        return self._done.get(index, [])


def _tensor(array: np.ndarray | None) -> Any:
    return None if array is None else keras.ops.convert_to_tensor(array)
