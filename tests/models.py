"""Small models that many tests share. `zoo.py` has one of every family."""

from __future__ import annotations

import keras
from keras import layers


def convolutions(
    widths,
    shape=(8, 8, 3),
    outputs=3,
    names=None,
    norms=0,
    bias=None,
    padding="valid",
):
    """3x3 convolutions in a row, each with a ReLU; then a head on their means.

    Args:
        widths: Filters of each convolution.
        shape: Shape of an image.
        outputs: Outputs of the Dense layer `head`.
        names: Names of the convolutions. Defaults to `conv1`, `conv2`, ...
        norms: How many of them have a batch normalisation: `norm1`, ...
        bias: Whether convolutions have a bias. Defaults to those without a
            batch normalisation.
        padding: Their padding.
    """
    x = inputs = keras.Input(shape)
    for n, width in enumerate(widths):
        name = names[n] if names else f"conv{n + 1}"
        use_bias = n >= norms if bias is None else bias
        x = layers.Conv2D(
            width, 3, padding=padding, use_bias=use_bias, name=name
        )(x)
        if n < norms:
            x = layers.BatchNormalization(name=f"norm{n + 1}")(x)
        x = layers.ReLU()(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(outputs, name="head")(x))


def dense_layers(widths, inputs, outputs=3, activation="relu"):
    """Dense layers `d0`, `d1`, ... in a row, then a Dense layer `head`."""
    x = start = keras.Input((inputs,))
    for n, width in enumerate(widths):
        x = layers.Dense(width, activation=activation, name=f"d{n}")(x)
    return keras.Model(start, layers.Dense(outputs, name="head")(x))


def head(x):
    """The last layer of a model."""
    return layers.Dense(3, name="head")(x)


def flat_model(inputs, x):
    """A model with a head that reads every position of `x`."""
    if len(x.shape) > 2:
        x = layers.Flatten()(x)
    return keras.Model(inputs, head(x))


def pooled_model(inputs, x):
    """A model with a head that reads the means of the channels of `x`."""
    if len(x.shape) > 2:
        x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, head(x))
