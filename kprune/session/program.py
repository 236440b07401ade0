"""A functional model as one list of calls, nested models spread out."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

import keras

from kprune.graph import walk
from kprune.masking import FilterMask

Tensors = dict[int, Any]
"""Values by slot."""

Values = list[tuple[Any, Any]]
"""Variables of a layer, and the tensors that stand for them."""


@dataclasses.dataclass(frozen=True)
class ProgramCall:
    """One call of a layer, operation or model that is not looked into.

    Args:
        operation: What is called.
        arguments: The call's arguments, with symbolic tensors in them.
        tensors: These symbolic tensors.
        given: Slots of their values.
        outputs: Slots of what the call gives.
    """

    operation: Any
    arguments: Any
    tensors: tuple[Any, ...]
    given: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def layer(self) -> Any:
        """The layer itself, without the wrapper that masks it."""
        return walk.unwrap(self.operation)

    def values(self) -> Values:
        """Return what the variables of the layer act as.

        It is the same in each call, as long as nobody changes weights or masks.
        """
        operation = self.operation
        known = operation.effective_values() if self._unwrapped else []
        named = {id(v) for v, _ in known}
        others = [
            (v, keras.ops.convert_to_tensor(v.value))
            for v in getattr(operation, "variables", ())
            if id(v) not in named
        ]
        return [*known, *others]

    def compute(self, given: Sequence[Any], values: Values) -> list[Any]:
        """Return what the call gives in inference mode.

        What the layer writes to its variables is forgotten.

        Args:
            given: Tensors for the slots `given`.
            values: See `values`.
        """
        known = {id(t): v for t, v in zip(self.tensors, given, strict=True)}
        args, kwargs = self.arguments.fill_in(known)
        operation = self.operation
        if getattr(self.layer, "_call_has_training_arg", False):
            kwargs["training"] = False
        if not values:
            return keras.tree.flatten(operation(*args, **kwargs))
        function = operation.compute_masked if self._unwrapped else operation
        with keras.StatelessScope(state_mapping=values):
            return keras.tree.flatten(function(*args, **kwargs))

    def run(self, given: Sequence[Any]) -> list[Any]:
        """Return what the call gives under present weights and masks."""
        return self.compute(given, self.values())

    @functools.cached_property
    def _unwrapped(self) -> bool:
        """Whether masks are applied here, once, and not in each call."""
        operation = self.operation
        # With mixed precision, the wrapper casts before it masks.
        return isinstance(operation, FilterMask) and (
            operation.compute_dtype == operation.variable_dtype
        )


class Program:
    """The calls of a model in the order of computation.

    A nested model that reads its inputs as they come is spread out, so that
    each of its layers is a call of its own; every call of a shared layer is.

    Args:
        model: A functional model.

    Example:

    ```python
    program = Program(model)
    for index, call in enumerate(program.calls):
        print(index, call.layer.name, program.last[call.outputs[0]])
    ```
    """

    def __init__(self, model: keras.Model) -> None:
        functional = walk.require_functional(model)
        self.functional = functional
        self.calls: list[ProgramCall] = []
        self._slots = 0
        self.inputs = tuple(self._new() for _ in functional.inputs)
        self.outputs = self._spread(functional, self.inputs)
        self._readers: dict[int, list[int]] = {}
        self._calls_of: dict[int, set[int]] = {}
        for index, call in enumerate(self.calls):
            for slot in dict.fromkeys(call.given):
                self._readers.setdefault(slot, []).append(index)
            for part in _parts(call.operation):
                self._calls_of.setdefault(id(part), set()).add(index)
        for slot in self.outputs:
            self._readers.setdefault(slot, []).append(len(self.calls))
        self.last = {slot: max(r) for slot, r in self._readers.items()}

    def calls_of(self, changed: Iterable[Any]) -> set[int]:
        """Return which calls compute with layers or variables.

        Args:
            changed: Layers, wrapped or not, or variables of the model.

        Raises:
            ValueError: One of them is not in the model.
        """
        found: set[int] = set()
        for part in changed:
            if id(part) not in self._calls_of:
                raise ValueError(
                    "Expected layers or variables of the model "
                    f"'{self.functional.name}'. Received: {part!r}."
                )
            found |= self._calls_of[id(part)]
        return found

    def only_reader(self, slot: int) -> int | None:
        """Return the number of the one call that reads a slot, if it is one."""
        readers = self._readers.get(slot, [])
        only = len(readers) == 1 and readers[0] < len(self.calls)
        return readers[0] if only else None

    def _new(self) -> int:
        self._slots += 1
        return self._slots - 1

    def _spread(
        self, functional: keras.Model, inputs: Sequence[int]
    ) -> tuple[int, ...]:
        slots = {
            id(t): slot
            for t, slot in zip(functional.inputs, inputs, strict=True)
        }
        for node in walk.nodes(functional):
            tensors = tuple(
                walk.tensors_of(node.arguments.args, node.arguments.kwargs)
            )
            given = tuple(slots[id(t)] for t in tensors)
            inner = walk.functional_of(node.operation)
            if inner is not None and _as_they_come(inner, tensors):
                outputs = self._spread(inner, given)
            else:
                outputs = tuple(self._new() for _ in node.outputs)
                self.calls.append(
                    ProgramCall(
                        node.operation, node.arguments, tensors, given, outputs
                    )
                )
            for tensor, slot in zip(node.outputs, outputs, strict=True):
                slots[id(tensor)] = slot
        return tuple(slots[id(t)] for t in functional.outputs)


def _as_they_come(inner: keras.Model, tensors: Sequence[Any]) -> bool:
    """Whether a nested model reads tensors without casting or reshaping."""
    return len(tensors) == len(inner.inputs) and all(
        a.dtype == b.dtype and len(a.shape) == len(b.shape)
        for a, b in zip(tensors, inner.inputs, strict=True)
    )


def _parts(operation: Any) -> list[Any]:
    """Layers and variables that an operation computes with."""
    if not isinstance(operation, keras.layers.Layer):
        return []
    return [
        *operation._flatten_layers(),
        walk.unwrap(operation),
        *operation.variables,
    ]
