"""Explain failures of TensorFlow that come from names it does not accept."""

from __future__ import annotations

import re

import keras

from kprune.export.signature import identifier

_REFUSED = re.compile(
    r"'([^']+)' is not a valid (?:root )?scope name"
    # A SavedModel's signature, whose arguments TensorFlow renames.
    r"|more than one argument to '[^']+' was named '([^']+)'"
    r"|(Name collision after sanitization)"
)

_OTHER_INPUTS = (
    "Export to '.keras', or give the inputs other names: `inputs = "
    "[keras.Input(batch_shape=t.shape, dtype=t.dtype) for t in model.inputs]`, then "
    "`keras.Model(inputs, model(inputs))`."
)


def explain_name(model: keras.Model, message: str) -> str | None:
    """Explain a failure of an export that is caused by a name.

    Args:
        model: The model that failed.
        message: Message of TensorFlow.

    Returns:
        The cause and the way out; None if a name is not the cause.
    """
    found = _REFUSED.search(message)
    if found is None:
        return None
    if found[1] is None:
        alike = _alike(model) or [name for name in (found[2],) if name]
        if not alike:
            return None
        return (
            f"TensorFlow does not accept {' and '.join(map(repr, alike))} as the "
            f"{'names' if alike[1:] else 'name'} of inputs of model {model.name!r}. "
            f"{_OTHER_INPUTS}"
        )
    # A weight's name begins with that which its layer had when it was built.
    name, *rest = found[1].split("/")
    layers = [layer.name for layer in model._flatten_layers(include_self=False)]
    accepted = re.sub(r"[^A-Za-z0-9_.-]", "_", name).lstrip("_-") or "renamed"
    if name in layers or rest:
        what = f"layer {name!r} of model {model.name!r}"
        way = (
            f'`model.get_layer({name!r}).name = "{accepted}"`, then '
            "`copy = keras.models.clone_model(model)` and "
            "`copy.set_weights(model.get_weights())`, since weights keep its name"
        )
    else:
        what, way = f"model {name!r}", f'`model.name = "{accepted}"`'
    return (
        f"TensorFlow does not accept the name of {what}. Names begin with an ASCII "
        "letter or digit and hold ASCII letters, digits, '_', '-' and '.'. Export to "
        f"'.keras', or rename it: {way}."
    )


def _alike(model: keras.Model) -> list[str]:
    """Return inputs whose names TensorFlow cannot tell apart; empty if it can."""
    names: dict[str, list[str]] = {}
    for tensor in model.inputs:
        name = tensor._keras_history.operation.name
        names.setdefault(identifier(name).lower(), []).append(name)
    return next((some for some in names.values() if len(some) > 1), [])
