"""Small models of every family, each with the groups it must have."""

from __future__ import annotations

import keras
from keras import layers
from keras import ops


def sequential():
    """Sequential: conv, pooling, Flatten -> Dense."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(6, 3, activation="relu", name="conv1"),
            layers.MaxPooling2D(),
            layers.Conv2D(8, 2, activation="sigmoid", name="conv2"),
            layers.Flatten(),
            layers.Dense(10, activation="softplus", name="dense"),
            layers.Dense(4, name="head"),
        ]
    )


def projection_resnet():
    """Residual blocks, identity and projection shortcuts."""
    x = inputs = keras.Input((8, 8, 3))
    x = _conv_bn(x, 8, "stem")
    for block, (filters, stride) in enumerate([(8, 1), (12, 2)]):
        short = x
        if stride != 1:
            short = layers.Conv2D(
                filters,
                1,
                strides=stride,
                use_bias=False,
                name=f"project{block}",
            )(x)
            short = layers.BatchNormalization()(short)
        y = _conv_bn(x, 6, f"a{block}", stride)
        y = layers.Conv2D(filters, 3, padding="same", name=f"b{block}")(y)
        y = layers.BatchNormalization()(y)
        x = layers.ReLU()(layers.Add()([y, short]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(5, name="head")(x))


def _conv_bn(x, filters, name, stride=1):
    x = layers.Conv2D(
        filters, 3, strides=stride, padding="same", use_bias=False, name=name
    )(x)
    x = layers.BatchNormalization(name=f"{name}_bn")(x)
    return layers.ReLU()(x)


def option_a_resnet():
    """CIFAR ResNet: strided slice and zero-padded channels as shortcut."""
    x = inputs = keras.Input((8, 8, 3))
    x = _conv_bn(x, 4, "stem")
    for block, (filters, stride) in enumerate([(4, 1), (8, 2), (16, 2)]):
        short = x
        if stride != 1:
            pad = (filters - x.shape[-1]) // 2
            short = ops.pad(
                x[:, ::2, ::2, :], [[0, 0], [0, 0], [0, 0], [pad, pad]]
            )
        y = _conv_bn(x, filters, f"a{block}", stride)
        y = layers.Conv2D(
            filters, 3, padding="same", use_bias=False, name=f"b{block}"
        )(y)
        y = layers.BatchNormalization()(y)
        x = layers.ReLU()(y + short)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(5, name="head")(x))


def squeeze_excite():
    """Depthwise convolution with a squeeze-excite gate."""
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 1, activation="swish", name="expand")(x)
    x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = layers.BatchNormalization()(x)
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(3, 1, activation="relu", name="squeeze")(gate)
    gate = layers.Conv2D(8, 1, activation="hard_sigmoid", name="excite")(gate)
    x = layers.Multiply()([x, gate])
    x = layers.Conv2D(6, 1, name="project")(x)
    x = layers.GlobalMaxPooling2D()(x)
    return keras.Model(inputs, layers.Dense(4, name="head")(x))


def dense_block():
    """DenseNet: every layer reads the concatenation of all before."""
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, padding="same", name="stem")(x)
    for n in range(3):
        y = layers.BatchNormalization()(x)
        y = layers.Activation("relu")(y)
        y = layers.Conv2D(4, 3, padding="same", name=f"grow{n}")(y)
        x = layers.Concatenate()([x, y])
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(4, name="head")(x))


def inception():
    """Branches of different kernels, concatenated."""
    x = inputs = keras.Input((8, 8, 3))
    a = layers.Conv2D(4, 1, activation="relu", name="one")(x)
    b = layers.Conv2D(6, 3, padding="same", activation="tanh", name="three")(x)
    c = layers.AveragePooling2D(3, strides=1, padding="same")(x)
    c = layers.Conv2D(4, 1, name="pooled")(c)
    x = layers.concatenate([a, b, c])
    x = layers.SeparableConv2D(8, 3, name="separable")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(4, name="head")(x))


def nested_backbone():
    """A pretrained-style backbone as one layer of the model with the head."""
    x = base_in = keras.Input((8, 8, 3))
    x = _conv_bn(x, 6, "conv1")
    x = _conv_bn(x, 8, "conv2")
    backbone = keras.Model(base_in, x, name="backbone")
    inputs = keras.Input((8, 8, 3))
    x = layers.Rescaling(1 / 2.0, offset=-1.0)(inputs)
    x = backbone(x, training=False)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(7, activation="relu", name="hidden")(x)
    return keras.Model(inputs, layers.Dense(4, name="head")(x))


def several_inputs_and_outputs():
    """Dictionaries of inputs and outputs."""
    image = keras.Input((8, 8, 3), name="image")
    numbers = keras.Input((5,), name="numbers")
    x = layers.Conv2D(6, 3, activation="relu", name="conv")(image)
    x = layers.GlobalAveragePooling2D()(x)
    y = layers.Dense(6, activation="sigmoid", name="embed")(numbers)
    z = layers.Concatenate()([x, y])
    z = layers.Dense(8, activation="relu", name="mix")(z)
    kind = layers.Dense(3, name="kind_out")(z)
    size = layers.Dense(2, name="size_out")(layers.Maximum()([x, y]))
    return keras.Model(
        {"image": image, "numbers": numbers}, {"kind": kind, "size": size}
    )


CORE = {
    sequential: {"conv1": 6, "conv2": 8, "dense": 10},
    projection_resnet: {"stem": 8, "a0": 6, "b1": 12, "a1": 6},
    option_a_resnet: {"stem": 4, "a0": 4, "a1": 8, "b1": 4, "a2": 16, "b2": 8},
    squeeze_excite: {"expand": 8, "squeeze": 3, "project": 6},
    dense_block: {"stem": 6, "grow0": 4, "grow1": 4, "grow2": 4},
    inception: {"one": 4, "three": 6, "pooled": 4, "separable": 8},
    nested_backbone: {"conv1": 6, "conv2": 8, "hidden": 7},
    several_inputs_and_outputs: {"conv": 6, "mix": 8},
}
