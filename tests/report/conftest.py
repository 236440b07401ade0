"""What tests of results share: a model and images."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers


@pytest.fixture
def model() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Conv2D(8, 3, activation="relu", name="conv"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, name="scores"),
        ]
    )


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(30, 6, 6, 1)).astype("float32")
