"""Access to optimizer slots."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from kprune.graph.values import read

Slots = dict[int, dict[str, keras.Variable]]
"""`id(variable)` -> slots of the weight, by the optimizer's attribute name."""


def base_optimizer(optimizer: Any) -> Any:
    """Return the optimizer that holds the slots (inside a loss-scaling one)."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def accumulation(optimizer: Any) -> int:
    """Return the number of batches whose gradients an optimizer sums for a step."""
    inner = base_optimizer(optimizer)
    return (
        optimizer.gradient_accumulation_steps
        or inner.gradient_accumulation_steps
        or 1
    )


def slots_of(optimizer: Any) -> Slots:
    """Return the slots (momenta, EMA averages, ...) of all weights.

    Args:
        optimizer: A `keras.Optimizer`. It has no slots before it is built.
    """
    optimizer = base_optimizer(optimizer)
    if not isinstance(optimizer, keras.Optimizer) or not optimizer.built:
        return {}
    learned = optimizer._trainable_variables
    slots: Slots = {id(variable): {} for variable in learned}
    for name, value in vars(optimizer).items():
        if not isinstance(value, list | tuple) or len(value) != len(learned):
            continue
        for slot, variable in zip(value, learned, strict=True):
            if slot is not variable and isinstance(slot, keras.Variable):
                slots[id(variable)][name] = slot
    return slots


def moving_averages(
    optimizer: Any,
) -> dict[int, tuple[keras.Variable, keras.Variable]]:
    """Return the weights with a moving average, and the averages.

    Args:
        optimizer: A `keras.Optimizer`, or `None`.

    Returns:
        `id(variable)` -> pair of the weight and its average. Empty unless the
        optimizer was made with `use_ema=True` and is built.
    """
    optimizer = base_optimizer(optimizer)
    if not getattr(optimizer, "use_ema", False) or not optimizer.built:
        return {}
    pairs = zip(
        optimizer._trainable_variables,
        optimizer._model_variables_moving_average,
        strict=True,
    )
    return {id(variable): (variable, average) for variable, average in pairs}


def slots_by_variable(model: keras.Model, optimizer: Any = None) -> Slots:
    """Return the slots of the same shape as their weight.

    Args:
        model: A model. Without a built optimizer it has no slots.
        optimizer: The optimizer with the slots. Defaults to `model.optimizer`.
    """
    if optimizer is None:
        optimizer = getattr(model, "optimizer", None)
    shapes = {id(v): tuple(v.shape) for v in model.variables}
    return {
        key: {n: s for n, s in slots.items() if tuple(s.shape) == shapes[key]}
        for key, slots in slots_of(optimizer).items()
        if key in shapes
    }


def resting_values(optimizer: Any) -> dict[str, float]:
    """Return the values of slots before the first step, by slot name.

    Most are 0, but not the accumulators of Ftrl, which divides by them.

    Args:
        optimizer: A `keras.Optimizer`, or `None`.
    """
    optimizer = base_optimizer(optimizer)
    if not isinstance(optimizer, keras.Optimizer):
        return {}
    try:
        rested = type(optimizer).from_config(optimizer.get_config())
    except Exception:  # The user's optimizer cannot be copied.
        return {}
    weight = keras.Variable(np.zeros(1, "float32"))
    rested.build([weight])
    slots = slots_of(rested)[id(weight)]
    return {name: float(read(slot).ravel()[0]) for name, slot in slots.items()}
