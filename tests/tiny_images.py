"""Images and a network for benchmarks that are tested, not run."""

from __future__ import annotations

import sys

import keras
import numpy as np
from shared_data import ROOT

sys.path.append(str(ROOT / "benchmarks" / "methods"))

import data

CLASSES = 3


def images(train=48, test=24):
    rng = np.random.default_rng(0)

    def draw(count):
        return rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)

    return data.Images(
        draw(train),
        np.arange(train) % CLASSES,
        draw(test),
        np.arange(test) % CLASSES,
    )


def network(width=8):
    x = inputs = keras.Input((8, 8, 3))
    for name in ("conv1", "conv2"):
        x = keras.layers.Conv2D(width, 3, use_bias=False, name=name)(x)
        x = keras.layers.BatchNormalization()(x)
        x = keras.layers.ReLU()(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(CLASSES, name="linear")(x))
