"""List the calls of a Keras model and its nested models."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras

from kprune.graph.walk import functional_of
from kprune.graph.walk import nodes
from kprune.graph.walk import require_functional


class RecreationError(ValueError):
    """A model cannot be re-created in tf_keras.

    Args:
        name: Name of the layer or operation.
        why: The reason, to be read after the name.
    """

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name!r} {why}")


@dataclass(frozen=True)
class Step:
    """One call of one layer or operation.

    Args:
        node: Keras' record of the call.
        inputs: Numbers of its input tensors, in the order of the arguments.
        outputs: Numbers of its output tensors.
    """

    node: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def operation(self) -> Any:
        """The layer or operation that is called."""
        return self.node.operation


@dataclass(frozen=True)
class Steps:
    """All calls of a model in order of execution.

    Args:
        inputs: Numbers of the model's inputs.
        steps: The calls.
        outputs: Numbers of the model's outputs.
    """

    inputs: tuple[int, ...]
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]

    def uses(self) -> Counter[int]:
        """Return how often each tensor is read, including as a model output."""
        read = itertools.chain(self.outputs, *(s.inputs for s in self.steps))
        return Counter(read)

    def calls(self) -> Counter[int]:
        """Return how often each operation is called, by its id."""
        return Counter(id(step.operation) for step in self.steps)


def steps_of(model: keras.Model) -> Steps:
    """List the calls of a model and of the models inside it.

    Args:
        model: Functional or Sequential model.

    Returns:
        The calls. A layer appears twice if it, or a nested model around it, is
        called twice.

    Raises:
        RecreationError: A nested model is called in an unusual way, or tensors
            carry masks.
    """
    functional = require_functional(model)
    numbers = itertools.count()
    inputs = tuple(next(numbers) for _ in functional.inputs)
    steps: list[Step] = []
    outputs = _walk(functional, inputs, steps, lambda: next(numbers))
    return Steps(inputs, tuple(steps), outputs)


def _walk(
    functional: keras.Model,
    inputs: Sequence[int],
    steps: list[Step],
    new: Callable[[], int],
) -> tuple[int, ...]:
    known = {
        id(t): n for t, n in zip(functional.inputs, inputs, strict=True)
    }  # fmt: skip
    for node in nodes(functional):
        _refuse_masks(node)
        inner = functional_of(node.operation)
        if inner is None:
            given = tuple(known[id(t)] for t in node.arguments.keras_tensors)
            outputs = tuple(new() for _ in node.outputs)
            steps.append(Step(node, given, outputs))
        else:
            given = tuple(known[id(t)] for t in _inner_inputs(node, inner))
            outputs = _walk(inner, given, steps, new)
        for tensor, number in zip(node.outputs, outputs, strict=True):
            known[id(tensor)] = number
    return tuple(known[id(t)] for t in functional.outputs)


def _inner_inputs(node: Any, inner: keras.Model) -> list[Any]:
    """Return the tensors a nested model is called on, in the order of its inputs."""
    name = node.operation.name
    args, kwargs = node.arguments.args, node.arguments.kwargs
    flags = {k for k, v in kwargs.items() if v is not None} - {"training"}
    if len(args) != 1 or flags or kwargs.get("training"):
        raise RecreationError(name, "is a model called with keyword arguments")
    given = args[0]
    if isinstance(given, dict) and not isinstance(inner.input, dict):
        flat = [given.get(tensor.name) for tensor in inner.inputs]
    else:
        flat = keras.tree.flatten(given)
    fits = len(flat) == len(inner.inputs) and all(
        isinstance(x, keras.KerasTensor) for x in flat
    )
    if not fits:
        raise RecreationError(name, "is a model called on constants")
    return flat


def _refuse_masks(node: Any) -> None:
    """Raise if a call outputs a mask, which tf_keras would not propagate."""
    for tensor in node.outputs:
        if getattr(tensor, "_keras_mask", None) is not None:
            raise RecreationError(
                node.operation.name, "hands on a mask (`mask_zero`, `Masking`)"
            )
