"""Calls that keep a layer in inference, unlike those of a functional model."""

from __future__ import annotations

from typing import Any

import keras

from kprune.graph.batches import UnreadableError
from kprune.graph.likeness import alike
from kprune.graph.likeness import arrays
from kprune.graph.likeness import random_tensor

# A layer inside, and the arguments of its call as they are written there.
PartCall = tuple[Any, tuple[Any, ...], dict[str, Any]]


def refuse_fixed_inference(calls: list[PartCall], batch: int | None) -> None:
    """Raise if a layer that acts in training is always called in inference.

    A functional model that trains passes `training=True` to all layers, whatever
    their calls say.

    Args:
        calls: The calls of the layers inside, in training.
        batch: The batch size to try layers out with, or None if it is fixed.
    """
    for part, args, kwargs in calls:
        if kwargs.get("training") is not False:
            continue
        what = _changed_by_training(part, args, kwargs, batch)
        if what is not None:
            raise UnreadableError(
                f"it calls '{part.name}' with training=False, which a "
                f"functional model does not keep, and {what} depends on it. Pass "
                "no constant as training; or set trainable=False of the batch "
                "normalisation and rate=0 of the dropout in it"
            )


def _changed_by_training(
    part: Any, args: Any, kwargs: Any, batch: int | None
) -> str | None:
    """Return the layer or result that differs in training, or None."""

    def value(x: Any) -> Any:
        if not isinstance(x, keras.KerasTensor):
            return x
        return random_tensor((batch or x.shape[0], *x.shape[1:]), x.dtype)

    results: list[Any] = []
    changed: list[set[int]] = []
    try:
        args, kwargs = keras.tree.map_structure(value, (args, kwargs))
        for training in (False, True):
            with keras.StatelessScope() as scope:
                outputs = part(*args, **{**kwargs, "training": training})
            results.append(arrays(keras.tree.flatten(outputs)))
            changed.append(set(scope.state_mapping))
    except Exception:  # User code may raise anything.
        return "maybe its output"
    for layer in reversed(list(part._flatten_layers())):
        if any(id(v) in changed[1] - changed[0] for v in layer.variables):
            return f"layer '{layer.name}'"
    return None if alike(*results) else "its output"
