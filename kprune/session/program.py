"""A functional model as a flat list of calls, with nested models inlined."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

import keras

from kprune.graph import walk
from kprune.graph.registry import is_batch_norm
from kprune.masking import FilterMask

Tensors = dict[int, Any]
"""Values by slot."""

Values = list[tuple[Any, Any]]
"""Pairs of a layer's variable and its effective value."""


@dataclasses.dataclass(frozen=True)
class ProgramCall:
    """One call of a layer, an operation, or a model that is not inlined.

    Args:
        node: The call in the model.
        tensors: The symbolic tensors among the arguments.
        given: Slots of their values.
        outputs: Slots of the outputs.
    """

    node: Any
    tensors: tuple[Any, ...]
    given: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def operation(self) -> Any:
        """The layer, operation or model that is called."""
        return self.node.operation

    @property
    def layer(self) -> Any:
        """The layer without its mask wrapper."""
        return walk.unwrap(self.operation)

    def values(self) -> Values:
        """Return the effective values of the layer's variables.

        They stay valid for all calls until weights or masks change.
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
        """Return the outputs of the call in inference mode.

        Updates that the layer makes to its variables are discarded.

        Args:
            given: Tensors for the slots `given`.
            values: See `values`.
        """
        args, kwargs = self._arguments(given, training=False)
        operation = self.operation
        if not values:
            return keras.tree.flatten(operation(*args, **kwargs))
        function = operation.compute_masked if self._unwrapped else operation
        with keras.StatelessScope(state_mapping=values):
            if self._unwrapped and operation.gates:
                args = (operation.gated(args[0]), *args[1:])
            return keras.tree.flatten(function(*args, **kwargs))

    def run(self, given: Sequence[Any]) -> list[Any]:
        """Return the outputs of the call with the current weights and masks."""
        return self.compute(given, self.values())

    def run_training(self, given: Sequence[Any]) -> list[Any]:
        """Return the outputs of the call, with batch normalisation in training mode.

        All else, such as dropout, is in inference mode, except inside a nested model
        that is not inlined.

        Args:
            given: Tensors for the slots `given`.
        """
        operation = self.operation
        nested = walk.functional_of(operation) is not None
        args, kwargs = self._arguments(
            given, training=nested or is_batch_norm(self.layer)
        )
        return list(keras.tree.flatten(operation(*args, **kwargs)))

    def _arguments(
        self, given: Sequence[Any], training: bool
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        known = {id(t): v for t, v in zip(self.tensors, given, strict=True)}
        args, kwargs = self.node.arguments.fill_in(known)
        if getattr(self.layer, "_call_has_training_arg", False):
            kwargs["training"] = training
        return args, kwargs

    @functools.cached_property
    def _unwrapped(self) -> bool:
        """Whether `values` applies the masks instead of the wrapper's call."""
        operation = self.operation
        # With mixed precision, the wrapper casts weights before it masks them.
        return isinstance(operation, FilterMask) and (
            operation.compute_dtype == operation.variable_dtype
        )


class Program:
    """The calls of a model in order of execution.

    A nested model is inlined, unless it casts or reshapes its inputs. A shared
    layer has one entry per call.

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
        self.flat = True  # whether there are no nested models
        self.calls: list[ProgramCall] = []
        self.tensors: list[Any] = []  # symbolic, by slot
        self.inputs = tuple(self._new(t) for t in functional.inputs)
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
        """Return the numbers of the calls that use some layers or variables.

        Args:
            changed: Layers, wrapped or not, operations or variables of the model.

        Raises:
            ValueError: If one of them is not in the model.
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
        """Return the number of the only call that reads a slot, or None."""
        readers = self._readers.get(slot, [])
        only = len(readers) == 1 and readers[0] < len(self.calls)
        return readers[0] if only else None

    def _new(self, tensor: Any) -> int:
        self.tensors.append(tensor)
        return len(self.tensors) - 1

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
            self.flat = self.flat and inner is None
            if inner is not None and _as_they_come(inner, tensors):
                outputs = self._spread(inner, given)
            else:
                outputs = tuple(self._new(t) for t in node.outputs)
                self.calls.append(ProgramCall(node, tensors, given, outputs))
            for tensor, slot in zip(node.outputs, outputs, strict=True):
                slots[id(tensor)] = slot
        return tuple(slots[id(t)] for t in functional.outputs)


def _as_they_come(inner: keras.Model, tensors: Sequence[Any]) -> bool:
    """Return whether a nested model reads tensors without casting or reshaping."""
    return len(tensors) == len(inner.inputs) and all(
        a.dtype == b.dtype and len(a.shape) == len(b.shape)
        for a, b in zip(tensors, inner.inputs, strict=True)
    )


def _parts(operation: Any) -> list[Any]:
    """Return the layers and variables that an operation computes with, or itself."""
    if not isinstance(operation, keras.layers.Layer):
        return [operation]
    return [
        *operation._flatten_layers(),
        walk.unwrap(operation),
        *operation.variables,
    ]
