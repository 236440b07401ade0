"""Layers that differ from their class: subclasses, LoRA, quantisation."""

from __future__ import annotations

import inspect
import weakref
from typing import Any

import keras
import numpy as np

from kprune.graph.values import copy_value

OPEN_SIZE = 8
"""Size used for axes of unknown size when a layer is tried out."""

CONSTRUCTION = {"__init__", "get_config", "from_config"}
"""Methods a subclass may redefine without changing what a built layer computes."""

_ALIKE: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()


def alteration(layer: Any) -> str | None:
    """Return why a layer's weights are not the usual ones of its class, or None.

    Args:
        layer: A layer or `keras.Operation`. Sublayers are checked too.
    """
    if not isinstance(layer, keras.layers.Layer):
        return None
    for part in layer._flatten_layers():
        if getattr(part, "lora_enabled", False):
            return (
                f"layer '{layer.name}' has LoRA weights: merge LoRA first "
                "(save_weights() merges them; load the file into the model "
                "without LoRA)"
            )
        if getattr(part, "quantization_mode", None):
            return (
                f"layer '{layer.name}' is quantized "
                f"({part.quantization_mode}): prune first, quantise after"
            )
    return None


def computes_like(layer: Any, parent: type) -> bool:
    """Return whether a layer with its own constructor computes what a parent does.

    A layer of the parent class is made from the parent's part of the
    configuration and given the same weights; both are called on a random input.
    The result is cached per layer.

    Args:
        layer: A layer. The answer is False if it is not built.
        parent: A base class of its class.
    """
    if not getattr(layer, "built", False):
        return False
    if layer not in _ALIKE:
        try:
            _ALIKE[layer] = _same_numbers(layer, parent)
        except Exception:  # User code may raise anything: then it is not alike.
            _ALIKE[layer] = False
    return _ALIKE[layer]


def _same_numbers(layer: Any, parent: Any) -> bool:
    other = parent.from_config(parent.get_config(layer))
    x = sample_of(layer)
    with keras.StatelessScope():
        expected = outputs_of(layer, x)
    other(x)
    for source, target in zip(layer.variables, other.variables, strict=True):
        copy_value(source, target)
    return alike(expected, outputs_of(other, x))


def sample_of(layer: Any) -> Any:
    """Return one random sample for a built layer; unknown sizes are small."""
    if layer._inbound_nodes:
        node = layer._inbound_nodes[0]
        first = [*node.arguments.args, *node.arguments.kwargs.values()][0]
        return keras.tree.map_structure(_random_like, first)
    return random_tensor(built_shape(layer), layer.variable_dtype)


def built_shape(layer: Any) -> tuple[int | None, ...]:
    """Return the shape of the first argument that a layer was built for."""
    config = layer.get_build_config()
    # Layers of several arguments, such as an RNN with its state, have all shapes.
    shapes = config.get("shapes_dict", config)
    first: tuple[int | None, ...] = tuple(next(iter(shapes.values())))
    return first


def _random_like(tensor: Any) -> Any:
    return random_tensor(tensor.shape, tensor.dtype)


def random_tensor(shape: Any, dtype: Any) -> Any:
    """Return a random tensor; a batch of unknown size gets 1 sample."""
    first, *rest = shape
    sizes = [OPEN_SIZE if n is None else n for n in rest]
    value = random_values(np.random.default_rng(0), dtype, (first or 1, *sizes))
    return keras.ops.convert_to_tensor(value, dtype=dtype)


def random_values(
    rng: np.random.Generator, dtype: Any, shape: Any
) -> np.ndarray:
    """Return random values that are valid for inputs of a data type.

    Integers are 0 or 1, which are in every vocabulary; strings are "0" or "1".
    """
    kind = keras.backend.standardize_dtype(dtype)
    if kind == "string":
        return rng.integers(0, 2, size=shape).astype(str).astype(object)
    if kind == "bool":
        return rng.integers(0, 2, size=shape).astype(bool)
    if "int" in kind:
        return rng.integers(0, 2, size=shape)
    return rng.normal(size=shape)


def outputs_of(layer: Any, *args: Any, **kwargs: Any) -> list[np.ndarray]:
    """Return the outputs of a layer in inference, as arrays."""
    return arrays(inferred(layer, *args, **kwargs))


def inferred(layer: Any, *args: Any, **kwargs: Any) -> list[Any]:
    """Return the output tensors of a layer or operation in inference."""
    if getattr(layer, "_call_has_training_arg", False):
        kwargs = {**kwargs, "training": False}
    outputs = keras.tree.flatten(layer(*args, **kwargs))
    return [y for y in outputs if keras.ops.is_tensor(y)]


def arrays(tensors: list[Any]) -> list[np.ndarray]:
    """Return tensors as arrays."""
    return [np.asarray(keras.ops.convert_to_numpy(y)) for y in tensors]


# Tolerances relative to the largest output, by bytes of the data type.
TOLERANCES = {8: 1e-9, 4: 1e-4, 2: 3e-2}


def alike(ours: list[np.ndarray], theirs: list[np.ndarray]) -> bool:
    """Return whether two lists of outputs are equal up to rounding."""
    return len(ours) == len(theirs) and all(map(close, ours, theirs))


def close(a: np.ndarray, b: np.ndarray) -> bool:
    """Return whether two outputs are equal up to rounding."""
    if a.shape != b.shape:
        return False
    if a.dtype.kind not in "fV":
        return bool((a == b).all())
    tolerance = TOLERANCES.get(a.dtype.itemsize, 1e-4)
    left, right = a.astype("float64"), b.astype("float64")
    scale = np.abs(right[np.isfinite(right)]).max(initial=1e-6)
    return np.allclose(
        left, right, rtol=0, atol=tolerance * scale, equal_nan=True
    )


def own_class_works(layer: Any, config: dict[str, Any], parent: Any) -> Any:
    """Return a layer of the same class with a new configuration, or None.

    Args:
        layer: A layer of a subclass with its own constructor.
        config: The new configuration, for the parent's constructor.
        parent: The base class that computes the same.
    """
    try:
        new = type(layer).from_config(config)
        made = parent.get_config(new)
    except Exception:  # The subclass' constructor takes other arguments.
        return None
    for name, wanted in config.items():
        plain = isinstance(wanted, str | int | float | list | tuple)
        if not plain or name not in made:
            continue
        if isinstance(wanted, str) and not isinstance(made[name], str):
            continue  # "zeros" for an initializer
        if np.any(np.asarray(made[name]) != np.asarray(wanted)):
            return None
    return new


def parent_config(
    layer: Any, config: dict[str, Any], parent: Any
) -> dict[str, Any]:
    """Return the part of a configuration that the parent's constructor takes."""
    return {k: v for k, v in config.items() if k in parent.get_config(layer)}


def is_own(layer: Any) -> bool:
    """Return whether a layer's class is not defined by Keras."""
    return not inspect.getmodule(type(layer)).__name__.startswith("keras.")  # type: ignore[union-attr]
