"""Make tf_keras layers that compute the same as Keras 3 layers.

Only layers that TF-MOT can quantise or cluster have counterparts. See `embedded`
for the others.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from kprune.export.tfmot import embedded
from kprune.export.tfmot.packages import packages


@dataclass(frozen=True)
class Counterpart:
    """The tf_keras layers for one Keras layer, called one after another.

    Args:
        layers: Unbuilt tf_keras layers.
        weights: The weights of each layer.
    """

    layers: tuple[Any, ...]
    weights: tuple[list[np.ndarray], ...]


_CONV = ("filters", "kernel_size", "strides", "padding", "data_format",
         "dilation_rate", "groups", "use_bias")  # fmt: skip
_TRANSPOSE = ("filters", "kernel_size", "strides", "padding", "data_format",
              "dilation_rate", "output_padding", "use_bias")  # fmt: skip
_DEPTHWISE = ("kernel_size", "strides", "padding", "data_format",
              "dilation_rate", "depth_multiplier", "use_bias")  # fmt: skip
_POOL = ("pool_size", "strides", "padding", "data_format")

_WEIGHTED: dict[type, tuple[str, ...]] = {
    keras.layers.Conv1D: _CONV,
    keras.layers.Conv2D: _CONV,
    keras.layers.Conv3D: _CONV,
    keras.layers.Conv2DTranspose: _TRANSPOSE,
    keras.layers.DepthwiseConv2D: _DEPTHWISE,
    keras.layers.Dense: ("units", "use_bias"),
    keras.layers.BatchNormalization: (
        "axis",
        "momentum",
        "epsilon",
        "center",
        "scale",
    ),
}

_PLAIN: dict[type, tuple[str, ...]] = {
    keras.layers.Add: (),
    keras.layers.AveragePooling2D: _POOL,
    keras.layers.Concatenate: ("axis",),
    keras.layers.Cropping2D: ("cropping", "data_format"),
    keras.layers.Dropout: ("rate", "noise_shape"),
    keras.layers.Flatten: ("data_format",),
    keras.layers.GlobalAveragePooling1D: ("data_format", "keepdims"),
    keras.layers.GlobalAveragePooling2D: ("data_format", "keepdims"),
    keras.layers.GlobalMaxPooling2D: ("data_format", "keepdims"),
    keras.layers.MaxPooling2D: _POOL,
    keras.layers.Permute: ("dims",),
    keras.layers.Reshape: ("target_shape",),
    keras.layers.SpatialDropout2D: ("rate", "data_format"),
    keras.layers.UpSampling2D: ("size", "data_format", "interpolation"),
    keras.layers.ZeroPadding2D: ("padding", "data_format"),
}

# TF-MOT recognises functions by these names in tf_keras.
_ACTIVATIONS: dict[Callable[..., Any], str] = {
    keras.activations.gelu: "gelu",
    keras.activations.relu: "relu",
    keras.activations.sigmoid: "sigmoid",
    keras.activations.silu: "swish",
    keras.activations.softmax: "softmax",
    keras.activations.tanh: "tanh",
}


def is_relu(operation: Any) -> bool:
    """Return whether a layer or operation is a plain ReLU.

    Args:
        operation: Keras layer or operation.

    Returns:
        True if it computes `max(x, 0)`.
    """
    if type(operation) is keras.layers.ReLU:
        return _rectifier(operation) == (None, 0.0, 0.0)
    if type(operation) is keras.layers.Activation:
        return operation.activation is keras.activations.relu
    return type(operation) is keras.src.ops.nn.Relu


def takes_activation(operation: Any) -> bool:
    """Return whether a ReLU after this layer can become its activation.

    Args:
        operation: Keras layer or operation.

    Returns:
        True for linear layers whose activation TF-MOT quantises.
    """
    kinds = (
        keras.layers.Conv2D,
        keras.layers.DepthwiseConv2D,
        keras.layers.Dense,
    )
    return (
        type(operation) in kinds
        and operation.activation is keras.activations.linear
        and _portable(operation)
    )


def plainly_called(node: Any) -> bool:
    """Return whether a layer is called on nothing but its inputs.

    Args:
        node: Keras' record of the call.

    Returns:
        False if the call has flags or masks, even if they are constants.
    """
    arguments = node.arguments
    flags = {k for k, v in arguments.kwargs.items() if v is not None}
    if arguments.kwargs.get("training") is False:
        # Keras records the default of some layers.
        flags.discard("training")
    return not flags and len(arguments.args) == 1


def counterpart(node: Any, name: str, relu: bool) -> Counterpart | None:
    """Make the tf_keras layers for a call.

    Args:
        node: Keras' record of the call.
        name: Name of the first layer.
        relu: Whether the layer ends with a ReLU, whatever its config says.

    Returns:
        The layers, or None if the call has no counterpart.
    """
    operation = node.operation
    kind = type(operation)
    if not isinstance(operation, keras.layers.Layer):
        return _of_operation(node, name)
    if not _portable(operation) or not plainly_called(node):
        return None
    if kind in _WEIGHTED:
        return _weighted(operation, name, relu)
    if kind in (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D):
        return _separable(operation, name)
    if kind in _PLAIN:
        return _single(_make(operation, name, _PLAIN[kind]))
    return _activation_layer(operation, name)


def _portable(layer: keras.layers.Layer) -> bool:
    """Return whether the layer is fully described by its config and weights."""
    first = getattr(layer, "data_format", None) == "channels_first"
    special = getattr(layer, "quantization_mode", None) or getattr(
        layer, "lora_enabled", False
    )
    # tf_keras has no CPU kernels for channels first.
    return not special and (
        not first or isinstance(layer, keras.layers.Flatten)
    )


def _single(layer: Any) -> Counterpart:
    return Counterpart((layer,), ([],))


def _make(
    layer: keras.layers.Layer, name: str, keys: tuple[str, ...], **more: Any
) -> Any:
    with warnings.catch_warnings():
        # Keras warns of activations that cannot be saved, which are not used here.
        warnings.simplefilter("ignore", UserWarning)
        config = layer.get_config()
    kept = {key: config[key] for key in keys if key in config}
    make = getattr(packages().tf_keras.layers, type(layer).__name__)
    return make(**kept, **more, name=name, trainable=layer.trainable)


def _weighted(
    layer: keras.layers.Layer, name: str, relu: bool
) -> Counterpart | None:
    keys = _WEIGHTED[type(layer)]
    weights = [np.asarray(w, "float32") for w in layer.get_weights()]
    activation = getattr(layer, "activation", None)
    if relu or activation is keras.activations.relu:
        made = _make(layer, name, keys, activation="relu")
        return Counterpart((made,), (weights,))
    return _followed(_make(layer, name, keys), weights, activation)


def _followed(layer: Any, weights: list[np.ndarray], activation: Any) -> Any:
    """Return the layer, followed by its activation as a separate layer.

    TF-MOT does not support every activation as a part of a layer.
    """
    if activation in (None, keras.activations.linear):
        return Counterpart((layer,), (weights,))
    name = f"{layer.name}_activation"
    following = _activation(activation, name) or embedded.embed(
        embedded.of_function(activation), name
    )
    return Counterpart((layer, following), (weights, []))


def _separable(layer: keras.layers.Layer, name: str) -> Counterpart | None:
    """Return both convolutions of a separable one.

    TF-MOT can split them too, but loses the name and configuration.
    """
    tf_layers = packages().tf_keras.layers
    if isinstance(layer, keras.layers.SeparableConv1D):
        return None
    keys = tuple(key for key in _DEPTHWISE if key != "use_bias")
    config = layer.get_config()
    kept = {key: config[key] for key in keys}
    depthwise = tf_layers.DepthwiseConv2D(
        **kept,
        use_bias=False,
        name=f"{name}_depthwise",
        trainable=layer.trainable,
    )
    relu = layer.activation is keras.activations.relu
    pointwise = tf_layers.Conv2D(
        layer.filters,
        1,
        use_bias=layer.use_bias,
        activation="relu" if relu else None,
        name=name,
        trainable=layer.trainable,
    )
    first, *rest = [np.asarray(w, "float32") for w in layer.get_weights()]
    rear = _followed(pointwise, rest, None if relu else layer.activation)
    return Counterpart((depthwise, *rear.layers), ([first], *rear.weights))


def _activation_layer(
    layer: keras.layers.Layer, name: str
) -> Counterpart | None:
    tf_layers = packages().tf_keras.layers
    made = None
    if type(layer) is keras.layers.Activation:
        made = _activation(layer.activation, name)
    elif type(layer) is keras.layers.ReLU:
        limit, slope, threshold = _rectifier(layer)
        if limit in (None, 6.0) and not slope and not threshold:
            made = tf_layers.ReLU(limit, name=name)
    elif type(layer) is keras.layers.LeakyReLU:
        made = tf_layers.LeakyReLU(float(layer.negative_slope), name=name)
    elif type(layer) is keras.layers.Softmax and layer.axis == -1:
        made = tf_layers.Activation("softmax", name=name)
    return None if made is None else _single(made)


def _rectifier(layer: keras.layers.ReLU) -> tuple[float | None, float, float]:
    limit = None if layer.max_value is None else float(layer.max_value)
    return limit, float(layer.negative_slope), float(layer.threshold)


def _activation(function: Any, name: str) -> Any:
    tf_layers = packages().tf_keras.layers
    if function is keras.activations.relu6:
        return tf_layers.ReLU(6.0, name=name)
    known = _ACTIVATIONS.get(function)
    return known and tf_layers.Activation(known, name=name)


def _of_operation(node: Any, name: str) -> Counterpart | None:
    """Return the counterpart of an addition, a concatenation or a ReLU."""
    tf_layers = packages().tf_keras.layers
    operation = node.operation
    operations = keras.src.ops
    shapes = {tuple(t.shape) for t in node.arguments.keras_tensors}
    count = len(node.arguments.keras_tensors)
    made = None
    if type(operation) is operations.numpy.Add:
        if count == 2 and len(shapes) == 1:
            made = tf_layers.Add(name=name)
    elif type(operation) is operations.numpy.Concatenate:
        if count == len(node.arguments.args[0]) > 1:
            made = tf_layers.Concatenate(operation.axis, name=name)
    elif type(operation) is operations.nn.Relu:
        made = tf_layers.ReLU(name=name)
    elif type(operation) is operations.nn.Relu6:
        made = tf_layers.ReLU(6.0, name=name)
    return None if made is None else _single(made)
