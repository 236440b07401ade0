"""What the examples share: handwritten digits, a small network, a printed result.

Nothing here is about pruning. The digits come with scikit-learn, so that nothing
is downloaded.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import layers

import kprune
from kprune.data import load_digits

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

(x_train, y_train), (x_val, y_val), (x_test, y_test) = load_digits()


def build_model(width: int = 32) -> keras.Model:
    """Return a network for images of 8x8 pixels."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            layers.Conv2D(width, 3, padding="same", use_bias=False),
            layers.BatchNormalization(momentum=0.9),
            layers.ReLU(),
            layers.Conv2D(width, 3, padding="same", use_bias=False),
            layers.BatchNormalization(momentum=0.9),
            layers.ReLU(),
            layers.MaxPooling2D(),
            layers.Conv2D(2 * width, 3, padding="same", activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10, name="scores"),
        ],
        name="digits",
    )
    model.compile(keras.optimizers.Adam(0.003), LOSS, metrics=["accuracy"])
    return model


def trained_model(epochs: int = 8) -> keras.Model:
    """Return that network, trained."""
    keras.utils.set_random_seed(0)
    model = build_model()
    model.fit(x_train, y_train, batch_size=64, epochs=epochs, verbose=2)
    return model


def print_result(
    before: keras.Model, after: keras.Model, x: np.ndarray, y: np.ndarray
) -> None:
    """Print MACs and compiled metrics of a model before and after pruning."""
    macs = [kprune.cost(model).macs for model in (before, after)]
    print(f"MACs: {macs[0]:,} -> {macs[1]:,}")
    old, new = (
        model.evaluate(x, y, verbose=0, return_dict=True)
        for model in (before, after)
    )
    for name, value in old.items():
        print(f"{name}: {value:.4f} -> {new[name]:.4f}")
