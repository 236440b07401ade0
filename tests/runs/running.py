"""A small model whose fits are quick and repeatable."""

from __future__ import annotations

import keras
from fitting import loss
from models import convolutions


def plain(width=6):
    return convolutions([width] * 3, (8, 8, 1), norms=1)


def compiled():
    keras.utils.set_random_seed(3)
    model = plain()
    model.compile("sgd", loss(), metrics=["accuracy"], run_eagerly=True)
    return model
