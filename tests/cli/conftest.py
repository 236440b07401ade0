"""A small saved model and inputs for it."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from cli.running import small


@pytest.fixture
def model() -> keras.Model:
    return small(12, 16)


@pytest.fixture
def saved(model, tmp_path):
    path = tmp_path / "model.keras"
    model.save(path)
    return path


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(24, 8, 8, 1)).astype("float32")
