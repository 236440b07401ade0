"""Optimizer slots of masked and compact models."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import keras

from kprune.graph.kept import Kept
from kprune.graph.values import copy_value
from kprune.graph.values import read
from kprune.masking.slots import slot_variables

logger = logging.getLogger("kprune")


def copy_slots(
    masked: keras.Model,
    compact: keras.Model,
    pairs: Mapping[int, keras.Variable],
    kept: Kept,
) -> None:
    """Continue the optimizer of `masked` in `compact`, slots cut to size.

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
    """Copy iterations, learning rate, loss scale and the like."""
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
