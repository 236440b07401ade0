"""A small convolutional network, trained on scikit-learn's digits."""

from __future__ import annotations

import functools

import keras
import numpy as np
from keras import layers

from kprune.data import batches
from kprune.data import load_digits
from kprune.export.runtime import LiteRT


@functools.cache
def data():
    """`(x, y)` to train on and `(x, y)` to test on."""
    train, _, test = load_digits()
    return train, test


@functools.cache
def trained(epochs: int = 15) -> keras.Model:
    """A residual network with batch normalisation, compiled and trained."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(16, 3, padding="same", use_bias=False, name="c1")(inputs)
    x = layers.ReLU()(layers.BatchNormalization(name="b1")(x))
    y = layers.Conv2D(16, 3, padding="same", name="c2")(x)
    x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.MaxPooling2D()(x)
    x = layers.Conv2D(24, 3, padding="same", activation="relu", name="c3")(x)
    x = layers.Flatten()(x)
    outputs = layers.Dense(10, name="scores")(x)
    model = keras.Model(inputs, outputs, name="digits")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss)
    (x, y), _ = data()
    model.fit(batches(x, y), epochs=epochs, verbose=0, shuffle=False)
    return model


def accuracy(path) -> float:
    """Accuracy of a file on the test digits."""
    _, (x, y) = data()
    runtime = LiteRT(path)
    (name,) = [spec.name for spec in runtime.inputs]
    (scores,) = runtime.run_batched({name: x.astype("float32")}).values()
    return float((scores.argmax(1) == y).mean())


def keras_accuracy(model) -> float:
    """Accuracy of a Keras model on the test digits."""
    _, (x, y) = data()
    return float((np.asarray(model(x)).argmax(1) == y).mean())
