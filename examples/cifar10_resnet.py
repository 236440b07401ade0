from __future__ import annotations
import keras
import numpy as np
from keras import layers
from keras import ops

def build_resnet(depth: int = 20) -> keras.Model:
    if depth < 8 or depth % 6 != 2:
        raise ValueError(
            f"depth must be 6n + 2 (20, 32, 44, 56, ...), received {depth}."
        )

    def conv_bn(x, filters, strides, name, index):
        x = layers.ZeroPadding2D(1, name=f"{name}pad{index}")(x)
        x = layers.Conv2D(
            filters, 3, strides, use_bias=False, name=f"{name}conv{index}"
        )(x)
        return layers.BatchNormalization(
            momentum=0.9, epsilon=1e-5, name=f"{name}bn{index}"
        )(x)

    def block(x, filters, strides, name):
        y = conv_bn(x, filters, strides, name, 1)
        y = conv_bn(layers.ReLU(name=f"{name}relu1")(y), filters, 1, name, 2)
        if strides == 2:
            # Option A: no parameters, missing channels are zeros.
            extra = filters // 4
            x = ops.pad(x[:, ::2, ::2, :], [[0, 0], [0, 0], [0, 0], [extra, extra]])
        y = layers.Add(name=f"{name}add")([x, y])
        return layers.ReLU(name=f"{name}relu2")(y)

    inputs = keras.Input((32, 32, 3), name="image")
    x = layers.ReLU(name="relu1")(conv_bn(inputs, 16, 1, "", 1))
    for stage, filters in enumerate((16, 32, 64), 1):
        for i in range((depth - 2) // 6):
            strides = 2 if stage > 1 and i == 0 else 1
            x = block(x, filters, strides, f"layer{stage}_{i}_")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = layers.Dense(10, name="linear")(x)
    return keras.Model(inputs, outputs, name=f"resnet{depth}")


def load_weights(model: keras.Model, path) -> None:
    with np.load(path, allow_pickle=False) as arrays:
        for layer in model.layers:
            key = layer.name.replace("_", ".")
            if isinstance(layer, layers.Conv2D):
                values = [arrays[f"{key}.weight"]]
            elif isinstance(layer, layers.BatchNormalization):
                names = ("weight", "bias", "running_mean", "running_var")
                values = [arrays[f"{key}.{name}"] for name in names]
            elif isinstance(layer, layers.Dense):
                values = [arrays[f"{key}.weight"], arrays[f"{key}.bias"]]
            else:
                continue
            layer.set_weights(values)
