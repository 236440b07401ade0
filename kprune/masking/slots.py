"""Access to optimizer slots."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from kprune.graph.values import read

Slots = dict[int, dict[str, keras.Variable]]
"""`id(variable)` -> slots of the weight, by the optimizer's attribute name."""

_PROBE = 0.734375
"""A value of a weight that no optimizer begins its momenta with."""


def base_optimizer(optimizer: Any) -> Any:
    """Return the optimizer inside a loss-scaling one, or else the optimizer itself."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def base_optimizers(optimizer: Any) -> list[Any]:
    """Return the optimizers that hold the slots, several for a `MultiOptimizer`."""
    inner = base_optimizer(optimizer)
    return list(getattr(inner, "optimizers", [inner]))


def check_optimizer(optimizer: Any) -> None:
    """Raise if an optimizer cannot train weights whose gradients are exactly 0.

    Args:
        optimizer: A `keras.Optimizer`, or `None`.

    Raises:
        ValueError: It is an Adafactor that would divide 0 by 0 at removed weights.
    """
    for base in base_optimizers(optimizer):
        if not isinstance(base, keras.optimizers.Adafactor):
            continue
        # It divides by the product of a row's and a column's mean squared gradient.
        if np.square(np.float32(base.epsilon_1)) == 0:
            raise ValueError(
                "Adafactor divides 0 by 0 where gradients are exactly 0, as those of "
                f"removed filters are: the square of its epsilon_1={base.epsilon_1:g} "
                "is 0 in float32. Pass keras.optimizers.Adafactor(..., "
                "epsilon_1=1e-16)."
            )


def accumulation(optimizer: Any) -> int:
    """Return the number of batches whose gradients an optimizer sums for a step."""
    found = [optimizer, *base_optimizers(optimizer)]
    return max(o.gradient_accumulation_steps or 1 for o in found)


def slots_of(optimizer: Any) -> Slots:
    """Return the slots (momenta, EMA averages, ...) of all weights.

    Args:
        optimizer: A `keras.Optimizer`. It has no slots before it is built.
    """
    slots: Slots = {}
    for base in base_optimizers(optimizer):
        slots.update(_slots(base))
    return slots


def _slots(base: Any) -> Slots:
    """Return the slots of the weights that one base optimizer trains."""
    if not isinstance(base, keras.Optimizer) or not base.built:
        return {}
    learned = base._trainable_variables
    slots: Slots = {id(variable): {} for variable in learned}
    for name, value in vars(base).items():
        if not isinstance(value, list | tuple) or len(value) != len(learned):
            continue
        for slot, variable in zip(value, learned, strict=True):
            if slot is not variable and isinstance(slot, keras.Variable):
                slots[id(variable)][name] = slot
    return slots


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


def copies_of_weights(optimizer: Any) -> Slots:
    """Return the slots that hold the weight itself, not what its gradients were.

    These are the moving averages of `use_ema=True`, and slots that begin as a copy of
    the weight, such as an iterate of `ScheduleFreeAdamW`. Both are written back to the
    weight, so that whatever changes a weight has to change them too.

    Args:
        optimizer: A `keras.Optimizer`, or `None`.
    """
    found: Slots = {}
    for base in base_optimizers(optimizer):
        names = {n for n, v in _initial(base).items() if v == _PROBE}
        names.add("_model_variables_moving_average")
        for key, slots in _slots(base).items():
            found[key] = {n: s for n, s in slots.items() if n in names}
    return found


def edited_slots(
    model: keras.Model, optimizer: Any = None, momenta: bool = False
) -> Slots:
    """Return the slots to edit in the same way as their weights.

    Args:
        model: The model.
        optimizer: The optimizer with the slots. Defaults to `model.optimizer`.
        momenta: Whether to include all slots of the same shape as their weight,
            besides `copies_of_weights`.
    """
    if momenta:
        return slots_by_variable(model, optimizer)
    if optimizer is None:
        optimizer = getattr(model, "optimizer", None)
    return copies_of_weights(optimizer)


@contextlib.contextmanager
def shifting_copies(optimizer: Any) -> Iterator[None]:
    """Return a context that keeps the distance of weights to their copies in slots.

    Args:
        optimizer: See `copies_of_weights`.
    """
    copies = copies_of_weights(optimizer)
    weights = [
        variable
        for base in base_optimizers(optimizer)
        for variable in getattr(base, "_trainable_variables", ())
        if copies.get(id(variable))
    ]
    pairs = [(v, slot) for v in weights for slot in copies[id(v)].values()]
    apart = [read(slot) - read(variable) for variable, slot in pairs]
    yield
    for (variable, slot), distance in zip(pairs, apart, strict=True):
        slot.assign(read(variable) + distance)


def resting_values(optimizer: Any) -> dict[int, float]:
    """Return the values of slots behind weights of 0 before the first step.

    Most are 0, but not the accumulators of Ftrl, which divides by them.

    Args:
        optimizer: A `keras.Optimizer`, or `None`.

    Returns:
        `id(slot)` -> value, where it is not 0.
    """
    found: dict[int, float] = {}
    for base in base_optimizers(optimizer):
        initial = {n: v for n, v in _initial(base).items() if v != _PROBE}
        for slots in _slots(base).values():
            found |= {id(s): initial.get(n, 0.0) for n, s in slots.items()}
    return {key: value for key, value in found.items() if value}


def _initial(base: Any) -> dict[str, float]:
    """Return the values of slots of a weight of `_PROBE` before the first step."""
    if not isinstance(base, keras.Optimizer):
        return {}
    try:
        rested = type(base).from_config(base.get_config())
    except Exception:  # The user's optimizer cannot be copied.
        return {}
    weight = keras.Variable(np.full(1, _PROBE, "float32"))
    rested.build([weight])
    slots = _slots(rested)[id(weight)]
    return {name: float(read(slot).ravel()[0]) for name, slot in slots.items()}
