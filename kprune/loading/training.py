"""Restoring of loss, optimizer and metrics from HDF5 and Keras 2 files."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kprune.loading import layers

Config = dict[str, Any]


def compile_model(
    model: keras.Model, config: Config, new: Mapping[str, str]
) -> None:
    """Compile a model with the settings of a file.

    Args:
        model: The model.
        config: `training_config` of an HDF5 file, or `compile_config`.
        new: Old name -> new name of renamed layers.

    Raises:
        ValueError: If Keras 3 does not know a loss, metric or optimizer.
    """
    optimizer = config.get("optimizer_config") or config.get("optimizer")
    arguments = {
        "loss": _nested(config.get("loss"), _loss),
        "metrics": _nested(config.get("metrics"), _metric),
        "weighted_metrics": _nested(config.get("weighted_metrics"), _metric),
        "loss_weights": config.get("loss_weights"),
    }
    for name, value in arguments.items():
        if isinstance(value, dict):  # by the names of outputs
            arguments[name] = {new.get(k, k): v for k, v in value.items()}
    model.compile(optimizer=_optimizer(optimizer), **arguments)


def restore_slots(model: keras.Model, values: Sequence[np.ndarray]) -> bool:
    """Set the variables of a model's optimizer, if their shapes match.

    Args:
        model: A compiled model.
        values: Their values, in order.

    Returns:
        Whether they were set.
    """
    model.optimizer.build(model.trainable_variables)
    variables = model.optimizer.variables
    if [tuple(v.shape) for v in variables] != [v.shape for v in values]:
        return False
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    return True


def _nested(value: Any, make: Callable[[Any], Any]) -> Any:
    if value is None:
        return None
    if isinstance(value, (list, tuple)):
        return [_nested(item, make) for item in value]
    if isinstance(value, dict) and "class_name" not in value:
        return {key: _nested(item, make) for key, item in value.items()}
    return make(value)


def _loss(value: Any) -> Any:
    name, config = _named(value)
    if config is None:
        own = keras.saving.get_registered_object(name)
        if own is None:
            keras.losses.get(name)  # raises for a name it does not know
        return own or name
    if config.get("reduction") == "auto":
        config["reduction"] = "sum_over_batch_size"
    return _made(keras.losses, name, config)


def _metric(value: Any) -> Any:
    name, config = _named(value)
    if config is None:
        # Words such as "accuracy" are for `compile`, which sees the outputs.
        return name
    function = config.get("fn")
    if name == "MeanMetricWrapper":
        function, _ = _named(function)
        return keras.metrics.MeanMetricWrapper(
            _function(function), name=config.get("name")
        )
    return _made(keras.metrics, name, config)


def _function(name: str) -> Any:
    """Return the function behind a metric, whose values are averaged."""
    registered = keras.saving.get_registered_object(name)
    found = registered or getattr(keras.metrics, name, None)
    if found is None:
        found = getattr(keras.losses, name, None)
    if found is None:
        raise ValueError(f"Unknown metric function: {name!r}.")
    return found


def _named(value: Any) -> tuple[str, Config | None]:
    """Return a name, and the arguments of what is a class."""
    if isinstance(value, str):
        return value, None
    name, config = value["class_name"], value.get("config")
    if not isinstance(config, dict):  # a function
        return str(config), None
    return name, dict(config)


def _optimizer(value: Any) -> Any:
    name, config = _named(value)
    if config is None:
        return keras.optimizers.get(name)
    if "LossScaleOptimizer" in name:  # compile() adds it where needed
        return _optimizer(config.get("inner_optimizer") or config["optimizer"])
    if "lr" in config:
        config.setdefault("learning_rate", config["lr"])
    decay = config.get("decay") or 0.0
    if decay:
        config["learning_rate"] = keras.optimizers.schedules.InverseTimeDecay(
            config["learning_rate"], decay_steps=1, decay_rate=decay
        )
    return _made(keras.optimizers, name, config)


def _made(module: Any, name: str, config: Config) -> Any:
    """Return an object of a class, without the arguments that are gone."""
    registered = keras.saving.get_registered_object(name)
    if registered is not None:
        return registered.from_config(config)
    name = name.rpartition(">")[2]  # Keras 2 wrote its own as "Custom>Adam"
    found: Any = getattr(module, name, None)
    if not isinstance(found, type):
        raise ValueError(f"Keras 3 has no {name!r}.")
    accepted = layers.arguments(found)
    kept = {k: v for k, v in config.items() if k in accepted and v is not None}
    return found.from_config(kept)  # type: ignore[attr-defined]
