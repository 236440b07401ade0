"""Translation of TensorFlow operations that Keras 2 saved as layers."""

from __future__ import annotations

from typing import Any

from kprune.loading import names
from kprune.loading.kinds import FileError

Config = dict[str, Any]

CLASSES = ("TFOpLambda", "SlicingOpLambda")

_BINARY = {
    "__operators__.add": "Add",
    "math.add": "Add",
    "math.subtract": "Subtract",
    "math.multiply": "Multiply",
    "math.divide": "Divide",
    "math.truediv": "TrueDivide",
    "math.maximum": "Maximum",
    "math.minimum": "Minimum",
}
_ACTIVATIONS = {
    f"{room}.{name}": name
    for room in ("nn", "math")
    for name in (
        "elu",
        "relu",
        "relu6",
        "sigmoid",
        "silu",
        "softmax",
        "softplus",
        "swish",
        "tanh",
    )
}


def translate(layer: Config, nodes: list[Any]) -> tuple[Config, list[Config]]:
    """Return the Keras 3 operation for a TensorFlow operation.

    Args:
        layer: Configuration of the layer for the operation.
        nodes: Its calls in the model, in the format of Keras 2.

    Returns:
        The new configuration, and the calls in the format of Keras 3.

    Raises:
        FileError: If Keras 3 has no such operation.
    """
    function = layer["config"].get("function")
    if function in _BINARY:
        name = _BINARY[function]
        entry: Config = {
            "module": "keras.src.ops.numpy",
            "class_name": name,
            "registered_name": name,
        }
        calls = [_binary(node) for node in nodes]
        return {**entry, "config": {}}, calls
    if function in _ACTIVATIONS:
        entry = {
            "module": "keras.layers",
            "class_name": "Activation",
            "registered_name": None,
        }
        calls = [{"args": [_first(node)], "kwargs": {}} for node in nodes]
        config = {"activation": _ACTIVATIONS[function]}
        return {**entry, "config": config}, calls
    raise FileError(
        f"needs {layer['class_name']!r}: layer {names.layer_name(layer)!r} is the "
        f"TensorFlow operation {function or 'of a slice'!r}, which Keras 3 cannot "
        "load from files. Build the model in Keras 3, with a Keras layer or "
        "keras.ops in its place, and load the weights."
    )


def _binary(node: Any) -> Config:
    return {"args": [_first(node), keywords(node)["y"]], "kwargs": {}}


def _first(node: Any) -> Any:
    inputs = tensors(node)
    return inputs[0] if isinstance(inputs, list) else inputs


def tensors(value: Any) -> Any:
    """Return references to tensors in the format of Keras 3.

    Args:
        value: Nested lists and dictionaries of references.
    """
    if names.is_constant(value):
        return value[2]
    if names.is_reference(value):
        return {
            "class_name": "__keras_tensor__",
            # Keras looks up the tensor by its history only.
            "config": {
                "shape": [None],
                "dtype": "float32",
                "keras_history": list(value[:3]),
            },
        }
    if isinstance(value, dict):
        return {key: tensors(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [tensors(item) for item in value]
    return value


def keywords(node: Any) -> Config:
    """Return the keyword arguments of a call, without those that are None."""
    # All tensors of a call have the same keyword arguments.
    while not (names.is_reference(node) or names.is_constant(node)):
        node = next(iter(node.values() if isinstance(node, dict) else node))
    given = node[3] if len(node) > 3 else {}
    return {
        key: tensors(value)
        for key, value in (given or {}).items()
        if value is not None
    }
