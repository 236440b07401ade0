"""Translation of Keras 2 layer configurations for Keras 3."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import keras

Config = dict[str, Any]

ALIASES = {
    "BatchNormalizationV1": "BatchNormalization",
    "BatchNormalizationV2": "BatchNormalization",
    "SyncBatchNormalization": "BatchNormalization",
    "ThresholdedReLU": "ReLU",
}
"""Keras 2 classes that are special cases of another class in Keras 3."""

RECURRENT = ("Bidirectional", "ConvLSTM", "GRU", "LSTM", "RNN", "SimpleRNN")

_NEUTRAL = (None, False, 1)
# Arguments that layers without weights, or Keras 2's implementation, did not use.
_UNUSED = {"trainable", "rng_type", "query_shape", "key_shape", "value_shape"}
_INITIALIZERS = {"normal": "truncated_normal"}


def adapt(name: str, config: Config) -> Config:
    """Return the Keras 3 configuration of a Keras 2 layer.

    Removed arguments are left out if their value has no effect. Others stay, so that
    Keras rejects them by name.

    Args:
        name: Class of the layer in Keras 2.
        config: Its configuration.

    Returns:
        A new configuration of the class `ALIASES.get(name, name)`.
    """
    config = dict(config)
    special = _SPECIAL.get(name)
    if special:
        special(config)
    config.pop("batch_input_shape", None)
    if isinstance(config.get("dtype"), dict):  # a policy
        config["dtype"] = config["dtype"]["config"]["name"]
    for key, value in config.items():
        if key.endswith("_initializer") and isinstance(value, dict):
            config[key] = _initializer(value)
    accepted = arguments(getattr(keras.layers, ALIASES.get(name, name)))
    return {
        key: value
        for key, value in config.items()
        if key in accepted or not _says_nothing(key, value)
    }


def input_layer(shape: Any, config: Config) -> Config:
    """Return the input layer that a first layer of Keras 2 implied.

    Args:
        shape: Shape of the input, with its batch axis.
        config: Configuration of that first layer.
    """
    dtype = config.get("dtype")
    if config.get("input_dim"):  # an Embedding's indices
        dtype = "int32"
    return {
        "module": "keras.layers",
        "class_name": "InputLayer",
        "config": {
            "batch_shape": shape,
            "dtype": dtype if isinstance(dtype, str) else None,
            "name": f"{config.get('name', 'layer')}_input".replace("/", "_"),
        },
        "registered_name": None,
    }


def _says_nothing(key: str, value: Any) -> bool:
    return key in _UNUSED or any(value is neutral for neutral in _NEUTRAL)


def arguments(kind: type) -> set[str]:
    """Return the names of all constructor arguments of a class."""
    found: set[str] = set()
    for parent in inspect.getmro(kind):
        named = inspect.signature(parent.__init__).parameters  # type: ignore[misc]
        found |= set(named)
        if not any(p.kind is p.VAR_KEYWORD for p in named.values()):
            break  # The next class gets no other arguments.
    return found


def _initializer(value: Config) -> Config:
    inner = dict(value.get("config") or {})
    inner.pop("dtype", None)
    distribution = inner.get("distribution")
    if distribution in _INITIALIZERS:
        inner["distribution"] = _INITIALIZERS[distribution]
    return {**value, "config": inner}


def _input(config: Config) -> None:
    if "batch_shape" not in config:
        config["batch_shape"] = config.pop("batch_input_shape", None)


def _axis(config: Config) -> None:
    axis = config.get("axis")
    if isinstance(axis, (list, tuple)) and len(axis) == 1:
        config["axis"] = axis[0]


def _synchronized(config: Config) -> None:
    _axis(config)
    config["synchronized"] = True


def _leaky(config: Config) -> None:
    if "alpha" in config:
        config["negative_slope"] = config.pop("alpha")


def _thresholded(config: Config) -> None:
    config["threshold"] = config.pop("theta")


def _separable(config: Config) -> None:
    for key in ("initializer", "regularizer", "constraint"):
        config.pop(f"kernel_{key}", None)  # there are two kernels


def _gru(config: Config) -> None:
    # Files without this argument are from a time when its value was False.
    config.setdefault("reset_after", False)


_SPECIAL: dict[str, Callable[[Config], None]] = {
    "InputLayer": _input,
    "BatchNormalization": _axis,
    "BatchNormalizationV1": _axis,
    "BatchNormalizationV2": _axis,
    "SyncBatchNormalization": _synchronized,
    "LeakyReLU": _leaky,
    "ThresholdedReLU": _thresholded,
    "SeparableConv1D": _separable,
    "SeparableConv2D": _separable,
    "GRU": _gru,
    "GRUCell": _gru,
}
