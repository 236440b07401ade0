"""What optimizers remember of weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras


def base_optimizer(optimizer: Any) -> Any:
    """Return the optimizer that holds the slots (inside a loss-scaling one)."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def slot_variables(
    optimizer: Any, trainable_variables: Sequence[keras.Variable]
) -> list[list[keras.Variable]]:
    """Return the slots (momenta, EMA averages, ...) of every trainable variable.

    Args:
        optimizer: A built `keras.Optimizer`.
        trainable_variables: The variables it was built with, in order.

    Returns:
        One list per trainable variable, with the optimizer variables shaped
        like it.
    """
    optimizer = base_optimizer(optimizer)
    count = len(trainable_variables)
    slots: list[list[keras.Variable]] = [[] for _ in range(count)]
    for value in vars(optimizer).values():
        if not isinstance(value, list | tuple) or len(value) != count:
            continue
        for n, (slot, variable) in enumerate(
            zip(value, trainable_variables, strict=True)
        ):
            if slot is variable or not isinstance(slot, keras.Variable):
                continue
            if tuple(slot.shape) == tuple(variable.shape):
                slots[n].append(slot)
    return slots


def slots_by_variable(
    model: keras.Model, optimizer: Any = None
) -> dict[int, list[keras.Variable]]:
    """Return the slots of a model's trainable variables by `id(variable)`.

    Args:
        model: A model; without a built optimizer it has none.
        optimizer: Whose slots. Defaults to `model.optimizer`.
    """
    if optimizer is None:
        optimizer = getattr(model, "optimizer", None)
    optimizer = base_optimizer(optimizer)
    if optimizer is None or not optimizer.built:
        return {}
    learned = optimizer._trainable_variables
    slots = slot_variables(optimizer, learned)
    return {id(v): s for v, s in zip(learned, slots, strict=True)}
