"""Carries a model's compile configuration over to a copy of it."""

from __future__ import annotations

import logging
from typing import Any

import keras

from kprune.graph.values import copy_value

logger = logging.getLogger("kprune")


def copy_compilation(
    model: keras.Model, copy: keras.Model, optimizer_state: bool = True
) -> None:
    """Compile `copy` as `model` is compiled, if it is.

    Loss functions and the like are reused as they are (a round trip through
    serialisation would lose plain Python functions); objects with state
    (optimizer, metrics) are recreated from their configuration.

    Args:
        model: The model whose configuration is read.
        copy: The model to compile.
        optimizer_state: Whether the values of the optimizer's variables are
            copied too. The trainable variables of both models must then have
            equal shapes.
    """
    if not model.compiled or getattr(model, "_compile_config", None) is None:
        return
    if type(copy).compile is not keras.Model.compile:
        logger.warning(
            "Model '%s' (%s) overrides compile(): compile the copy yourself.",
            model.name,
            type(model).__name__,
        )
        return
    config = dict(model._compile_config.config)
    config["optimizer"] = fresh(model.optimizer)
    for name in ("metrics", "weighted_metrics"):
        config[name] = keras.tree.map_structure(fresh, config.get(name))
    copy.compile(**config)
    if copy.optimizer is None:
        return
    copy.optimizer.build(copy.trainable_variables)
    if optimizer_state and model.optimizer.built:
        pairs = zip(
            model.optimizer.variables, copy.optimizer.variables, strict=True
        )
        for source, target in pairs:
            copy_value(source, target)


def fresh(value: Any) -> Any:
    """Return a new object of the same configuration, for objects that hold state."""
    if isinstance(value, keras.Metric | keras.Optimizer):
        return type(value).from_config(value.get_config())
    return value
