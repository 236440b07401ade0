"""Optimizer slots of masked and compact models."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import keras

from kprune.graph.kept import Kept
from kprune.graph.values import copy_value
from kprune.graph.values import read

logger = logging.getLogger("kprune")


def base_optimizer(optimizer: Any) -> Any:
    """The optimizer that holds the slots (inside a loss-scaling one)."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def slot_variables(
    optimizer: Any, trainable_variables: Sequence[keras.Variable]
) -> list[list[keras.Variable]]:
    """The slots (momenta, EMA averages, ...) of every trainable variable.

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


def slots_by_variable(model: keras.Model) -> dict[int, list[keras.Variable]]:
    """The slots of a model's trainable variables by `id(variable)`.

    Args:
        model: A model; without a built optimizer it has none.
    """
    optimizer = base_optimizer(getattr(model, "optimizer", None))
    if optimizer is None or not optimizer.built:
        return {}
    learned = optimizer._trainable_variables
    slots = slot_variables(optimizer, learned)
    return {id(v): s for v, s in zip(learned, slots, strict=True)}


def copy_slots(
    masked: keras.Model,
    compact: keras.Model,
    pairs: Mapping[int, keras.Variable],
    kept: Kept,
) -> None:
    """Continues the optimizer of `masked` in `compact`, slots cut to size.

    Args:
        masked: The masked model.
        compact: The compact model, compiled with an optimizer of its own.
        pairs: The compact variable by `id(masked variable)`.
        kept: Which channels live.
    """
    old, new = (
        getattr(masked, "optimizer", None),
        getattr(compact, "optimizer", None),
    )
    if old is None or new is None or not old.built:
        return
    before = masked.trainable_variables
    after = compact.trainable_variables
    matches = [pairs[id(v)] for v in before]
    if [id(v) for v in matches] != [id(v) for v in after]:
        number = {id(v): n for n, v in enumerate(after)}
        order = [number[id(v)] for v in matches]
    else:
        order = list(range(len(after)))
    old_slots = slot_variables(old, before)
    new_slots = slot_variables(new, after)
    done: set[int] = set()
    for n, variable in enumerate(before):
        for source, target in zip(
            old_slots[n], new_slots[order[n]], strict=True
        ):
            target.assign(kept.take(variable, read(source).copy()))
            done.add(id(target))
    _copy_scalars(old, new, done)


def _copy_scalars(old: Any, new: Any, done: set[int]) -> None:
    """Copies iterations, learning rate, loss scale and the like."""
    for source, target in zip(old.variables, new.variables, strict=True):
        if id(target) in done:
            continue
        if tuple(source.shape) == tuple(target.shape):
            copy_value(source, target)
        else:
            logger.warning(
                "Optimizer variable '%s' of shape %s starts afresh in the "
                "compact model: its shape does not follow its weight's.",
                source.path,
                tuple(source.shape),
            )
