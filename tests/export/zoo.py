"""Small models of every structure that export must handle."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers


def conv_net(name: str = "net") -> keras.Model:
    """Convolution, batch norm with live statistics, Flatten, softmax."""
    x = inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(6, 3, name="conv")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.ReLU(name="relu")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(4, activation="softmax", name="scores")(x)
    model = keras.Model(inputs, x, name=name)
    model.get_layer("norm").set_weights(
        [
            np.linspace(0.5, 1.5, 6),
            np.linspace(-0.5, 0.5, 6),
            np.linspace(-0.1, 0.1, 6),
            np.linspace(0.5, 2.0, 6),
        ]
    )
    return model


def images(count: int, seed: int = 1) -> np.ndarray:
    """Inputs for `conv_net`."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, 8, 8, 3)).astype("float32")


def two_inputs(kind: str) -> keras.Model:
    """Image and tokens in; class scores and a regression out."""
    image = keras.Input((8, 8, 3), name="image")
    tokens = keras.Input((5,), dtype="int32", name="tokens")
    x = layers.Flatten()(layers.Conv2D(3, 3)(image))
    y = layers.LSTM(6)(layers.Embedding(11, 4)(tokens))
    scores = layers.Dense(3, activation="softmax", name="scores")(
        layers.Concatenate()([x, y])
    )
    size = layers.Dense(2, name="size")(x)
    if kind == "dict":
        return keras.Model(
            {"tokens": tokens, "image": image}, {"z": scores, "a": size}
        )
    return keras.Model([image, tokens], [scores, size])


def siblings(kind: str) -> keras.Model:
    """Two inputs, an inner layer that can be pruned, two outputs."""
    image = keras.Input((8, 8, 3), name="image")
    extra = keras.Input((4,), name="extra")
    x = layers.Conv2D(6, 3, activation="relu", name="conv")(image)
    x = layers.Flatten()(x)
    y = layers.Dense(8, activation="relu", name="hidden")(extra)
    x = layers.Dense(10, name="joined")(layers.Concatenate()([x, y]))
    scores = layers.Dense(3, activation="softmax", name="scores")(x)
    size = layers.Dense(2, name="size")(x)
    if kind == "dict":
        return keras.Model(
            {"extra": extra, "image": image}, {"z": scores, "a": size}
        )
    return keras.Model([image, extra], [scores, size])


def nested() -> keras.Model:
    """A Sequential backbone inside a functional model."""
    backbone = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.Conv2D(8, 3),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
        ],
        name="backbone",
    )
    inputs = keras.Input((16, 16, 3))
    return keras.Model(inputs, layers.Dense(4)(backbone(inputs)), name="nested")


def recurrent(layer: str = "GRU") -> keras.Model:
    """Embedding with mask, recurrent layer, Dense."""
    return keras.Sequential(
        [
            keras.Input((5,), dtype="int32"),
            layers.Embedding(11, 4, mask_zero=True),
            getattr(layers, layer)(4),
            layers.Dense(3),
        ],
        name="recurrent",
    )


def grouped() -> keras.Model:
    """Grouped and depthwise convolution."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 4)),
            layers.Conv2D(8, 3, groups=2),
            layers.DepthwiseConv2D(3),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3),
        ]
    )


def gelu_attention() -> keras.Model:
    """Attention, layer norm and the exact GELU."""
    x = inputs = keras.Input((6, 8))
    x = layers.MultiHeadAttention(2, 4)(x, x) + x
    x = layers.LayerNormalization()(x)
    return keras.Model(inputs, layers.Dense(5, activation="gelu")(x))


def normalized() -> keras.Model:
    """Constants that live outside the model's variables."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Normalization(
                mean=[0.1, 0.2, 0.3], variance=[1.0, 2.0, 3.0]
            ),
            layers.Conv2D(4, 3),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )


def outside_builtins() -> keras.Model:
    """An operator that neither LiteRT nor ONNX has."""
    inputs = keras.Input((8,))
    outputs = keras.ops.erfinv(keras.ops.tanh(inputs))
    return keras.Model(inputs, outputs, name="inverse")


def float64_constant(constant: np.ndarray) -> keras.Model:
    """Four constants in a nested model, and at the end."""
    inputs = keras.Input((4,))
    x = keras.ops.multiply(inputs, constant)
    inner = keras.Model(inputs, x, name="inner")
    inputs = keras.Input((8,))
    x = layers.Dense(4)(inner(layers.Dense(4)(inputs)))
    return keras.Model(inputs, keras.ops.add(x, constant))


def mixed(policy: str) -> keras.Model:
    """`conv_net` computing under `policy`."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        return conv_net(policy)
    finally:
        keras.config.set_dtype_policy(before)


def tensor_types(path):
    """Data types of all tensors of a `.tflite` file, and of input and output."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))
    return [d["dtype"] for d in interpreter.get_tensor_details()], (
        interpreter.get_input_details()[0]["dtype"],
        interpreter.get_output_details()[0]["dtype"],
    )
