"""What the examples share: handwritten digits, a small network, a printed result.

Nothing here is about pruning. The digits come with scikit-learn, so that nothing
is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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


def litert_accuracy(
    interpreter: Any,
    to_input: Callable[[np.ndarray], np.ndarray],
    images: np.ndarray,
    labels: np.ndarray,
) -> float:
    """Return the accuracy of a file on LiteRT, one image at a time as on a device.

    Args:
        interpreter: `ai_edge_litert.interpreter.Interpreter`.
        to_input: What a device does with an image before it runs the file.
        images: `(n, height, width, channels)`.
        labels: `(n,)` classes.
    """
    interpreter.allocate_tensors()
    (given,) = interpreter.get_input_details()
    (answer,) = interpreter.get_output_details()
    right = 0
    for image, label in zip(images, labels, strict=True):
        x = to_input(image).astype(given["dtype"])
        interpreter.set_tensor(given["index"], x[None])
        interpreter.invoke()
        scores = interpreter.get_tensor(answer["index"])
        right += int(scores.argmax() == label)
    return right / len(labels)
