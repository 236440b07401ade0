"""The VGG-16 of the benchmark without data, here a tiny network."""

from __future__ import annotations

import sys

import keras
import numpy as np
import pytest
from shared_data import ROOT
from tiny_images import images
from tiny_images import network

sys.path.append(str(ROOT / "benchmarks" / "methods"))

import vgg16


def test_it_is_trained_once(tmp_path):
    path = tmp_path / "new" / "vgg16.keras"
    trained = vgg16.trained(path, images(train=128), 2, network)
    keras.utils.set_random_seed(0)
    untrained = network().get_weights()
    for new, weight in zip(untrained, trained.get_weights(), strict=True):
        assert (weight != new).any()

    def build():
        pytest.fail("It is there already.")

    stored = vgg16.trained(path, images(), 2, build)
    for one, other in zip(
        stored.get_weights(), trained.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, other)
