"""A small saved model and inputs for it."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers


@pytest.fixture
def model() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(12, 3, activation="relu", name="first"),
            layers.Conv2D(16, 3, activation="relu", name="second"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4, name="scores"),
        ],
        name="small",
    )


@pytest.fixture
def saved(model, tmp_path):
    path = tmp_path / "model.keras"
    model.save(path)
    return path


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(24, 8, 8, 1)).astype("float32")
