"""Layers the user has excluded from pruning."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras

from kprune.graph import walk


class Skip:
    """Layers and nested models whose channels must stay.

    Layers are matched by identity, or by name if the model does not hold them
    (because they belong to the model it was copied from).

    Args:
        model: The model.
        given: Layers, nested models, or names of either; or None.

    Raises:
        TypeError: If an entry is neither a layer nor a name.
        ValueError: If the model does not call such a layer.
    """

    def __init__(self, model: keras.Model, given: Iterable[Any] | None) -> None:
        self._names: set[str] = set()
        self._ids: set[int] = set()
        entries = _entries(given)
        if not entries:
            return
        ids, names = _inventory(model)
        unknown = []
        for entry in entries:
            if isinstance(entry, str):
                self._names.add(entry)
            elif id(entry) in ids:
                self._ids.add(id(entry))
                continue
            else:
                self._names.add(entry.name)
            name = entry if isinstance(entry, str) else entry.name
            if name not in names:
                unknown.append(name)
        if unknown:
            raise ValueError(
                f"skip names {sorted(unknown)}, but model '{model.name}' calls "
                "no such layer. model.summary(expand_nested=True) lists them."
            )

    def __contains__(self, operation: Any) -> bool:
        return operation.name in self._names or id(operation) in self._ids


def _entries(given: Iterable[Any] | None) -> list[Any]:
    if given is None:
        return []
    if isinstance(given, str | keras.layers.Layer):
        given = [given]
    entries = list(given)
    for entry in entries:
        if not isinstance(entry, str | keras.layers.Layer):
            raise TypeError(
                "skip takes layers, nested models, or their names. Received: "
                f"{entry!r} (of type {type(entry).__name__})."
            )
    return entries


def _inventory(model: keras.Model) -> tuple[set[int], set[str]]:
    """Return ids and names of everything a model calls, inputs included."""
    ids: set[int] = set()
    names: set[str] = set()
    stack = [walk.require_functional(model)]
    while stack:
        functional = stack.pop()
        for operation in functional.operations:
            if id(operation) in ids:
                continue
            ids |= {id(operation), id(walk.unwrap(operation))}
            names.add(operation.name)
            inner = walk.functional_of(operation)
            if inner is not None:
                stack.append(inner)
    return ids, names
