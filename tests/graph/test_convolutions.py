"""Convolutions of every kind, as producer and as consumer."""

import keras
import pytest
from harness import run_pruning_test
from keras import layers
from models import flat_model


def one_and_three_dimensions():
    one, three = keras.Input((8, 2)), keras.Input((4, 4, 4, 2))
    x = layers.Conv1D(4, 3, padding="causal", name="c1")(one)
    x = layers.DepthwiseConv1D(2, depth_multiplier=2, name="d1")(x)
    x = layers.Conv1D(5, 2, dilation_rate=2, activation="softplus", name="c2")(
        x
    )
    x = layers.SeparableConv1D(4, 2, depth_multiplier=2, name="s1")(x)
    x = layers.Conv1DTranspose(3, 2, strides=2, name="t1")(x)
    y = layers.Conv3D(4, 2, activation="sigmoid", name="c3")(three)
    y = layers.Conv3DTranspose(3, 2, name="t3")(y)
    y = layers.UpSampling3D(2)(layers.ZeroPadding3D(1)(y))
    y = layers.GlobalMaxPooling3D()(layers.Cropping3D(1)(y))
    return flat_model(
        [one, three], layers.Concatenate()([layers.Flatten()(x), y])
    )


def depth_multiplier():
    x = inputs = keras.Input((6, 6, 2))
    x = layers.DepthwiseConv2D(2, depth_multiplier=3, name="first")(x)
    x = layers.Conv2D(4, 1, activation="sigmoid", name="a")(x)
    x = layers.DepthwiseConv2D(
        2, depth_multiplier=3, activation="softplus", use_bias=True, name="wide"
    )(x)
    x = layers.BatchNormalization()(x)
    x = layers.SeparableConv2D(6, 2, depth_multiplier=2, name="separable")(x)
    x = layers.Conv2DTranspose(5, 2, strides=2, use_bias=False, name="up")(x)
    return flat_model(inputs, layers.GlobalAveragePooling2D()(x))


def groups():
    """Few wide groups, many narrow ones, depthwise by groups, and the input."""
    x = inputs = keras.Input((5, 5, 4))
    x = layers.Conv2D(6, 1, groups=2, name="on_input")(x)
    x = layers.Conv2D(12, 1, activation="sigmoid", name="wide")(x)
    x = layers.Conv2D(8, 2, groups=2, name="two_groups")(x)
    x = layers.Conv2D(8, 1, activation="softplus", name="between")(x)
    x = layers.Conv2D(
        12, 2, groups=4, activation="sigmoid", name="four_groups"
    )(x)
    x = layers.Conv2D(6, 1, name="mix")(x)
    x = layers.Conv2D(12, 2, groups=6, name="depthwise")(x)
    return flat_model(inputs, layers.GlobalAveragePooling2D()(x))


def grouped_residual():
    """ResNeXt: the grouped convolution inside a residual block."""
    x = inputs = keras.Input((5, 5, 3))
    x = short = layers.Conv2D(8, 1, name="stem")(x)
    x = layers.Conv2D(8, 1, activation="relu", name="reduce")(x)
    x = layers.Conv2D(8, 3, padding="same", groups=4, name="grouped")(x)
    x = layers.BatchNormalization()(x)
    x = layers.Conv2D(8, 1, name="expand")(layers.ReLU()(x))
    return flat_model(
        inputs, layers.GlobalAveragePooling2D()(layers.Add()([x, short]))
    )


def dense_on_images():
    x = inputs = keras.Input((4, 4, 3))
    x = layers.Dense(6, activation="sigmoid", name="a")(x)
    x = layers.BatchNormalization()(x)
    x = layers.Dense(5, use_bias=False, name="b")(x)
    x = layers.Conv2D(4, 2, name="c")(x)
    return flat_model(inputs, x)


def initialised_with_arrays():
    """Initializers that hold arrays fit the old shape only."""
    import numpy as np

    x = inputs = keras.Input((4,))
    pretrained = keras.initializers.Constant(np.ones((4, 6), "float32"))
    x = layers.Dense(6, kernel_initializer=pretrained, name="a")(x)
    return flat_model(inputs, x)


CASES = {
    one_and_three_dimensions: {
        "c1": 4,
        "c2": 5,
        "s1": 4,
        "t1": 3,
        "c3": 4,
        "t3": 3,
    },
    depth_multiplier: {"a": 4, "separable": 6, "up": 5},
    groups: {
        "on_input": 3,
        "wide": 6,
        "two_groups": 4,
        "between": 4,
        "mix": 6,
    },
    grouped_residual: {"stem": 8, "reduce": 4},
    dense_on_images: {"a": 6, "b": 5, "c": 4},
    initialised_with_arrays: {"a": 6},
}


@pytest.mark.parametrize("build", CASES, ids=lambda f: f.__name__)
def test_convolution(build, tmp_path):
    run_pruning_test(build, tmp_path, expected=CASES[build])
