"""Functions and objects of the user's own that a layer computes with."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras

# What stands for an object of one's own in a configuration, by the end of its name.
STAND_INS = {
    "activation": keras.activations.linear,
    "regularizer": None,
    "constraint": None,
    "initializer": keras.initializers.Zeros(),
}


def made_from(operation: Any, make: Callable[[], Any]) -> Any:
    """Return a layer or operation made from the configuration of another one.

    A configuration only names functions and classes, and Keras finds those that
    are registered. If there are others, they are passed on as they are, except
    for initializers, whose values are overwritten anyway.

    Args:
        operation: The layer or operation.
        make: Returns a new layer or operation, which is not built.
    """
    try:
        return make()
    except Exception as error:  # User code may raise anything.
        own = list(_own_objects(operation))
        if not own:
            raise
        with _stand_ins(own):
            new = make()
        try:
            twins = {id(old): twin for old, twin in _pairs(operation, new)}
        except ValueError:
            raise error from None
    for part, name, value in own:
        twin = twins.get(id(part))
        if twin is not None and not name.endswith("initializer"):
            setattr(twin, name, value)
    return new


def without_nodes(operation: Any) -> Any:
    """Return a shallow copy of an operation that is not a layer, without calls."""
    # copy.copy() would serialize it.
    new = object.__new__(type(operation))
    vars(new).update(vars(operation))
    new._inbound_nodes, new._outbound_nodes = [], []
    return new


def _own_objects(operation: Any) -> Iterator[tuple[Any, str, Any]]:
    """Yield `(sublayer, attribute, object)`."""
    if not isinstance(operation, keras.layers.Layer):
        return
    for part in operation._flatten_layers():
        for name, value in vars(part).items():
            if name.rpartition("_")[2] in STAND_INS and _is_own(value):
                yield part, name, value


def _pairs(old: Any, new: Any) -> Iterator[tuple[Any, Any]]:
    """Yield a layer and its copy, then those of their sublayers.

    Raises:
        ValueError: The copy has other sublayers.
    """
    yield old, new
    # Layers that make their parts when they are built pass on what they got.
    if new._layers:
        for part, twin in zip(old._layers, new._layers, strict=True):
            yield from _pairs(part, twin)


def _is_own(value: Any) -> bool:
    if value is None or isinstance(value, str | keras.layers.Layer):
        return False
    module = getattr(value, "__module__", None) or type(value).__module__
    return not module.startswith("keras.")


@contextlib.contextmanager
def _stand_ins(own: list[tuple[Any, str, Any]]) -> Iterator[None]:
    """Return a context in which `get_config()` does not see these objects."""
    # Not by setattr(), with which Keras keeps track of what a layer owns.
    for part, name, _ in own:
        vars(part)[name] = STAND_INS[name.rpartition("_")[2]]
    try:
        yield
    finally:
        for part, name, value in own:
            vars(part)[name] = value
