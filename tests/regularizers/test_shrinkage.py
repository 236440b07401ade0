"""Strengths that shrink kernels by a share."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from backends import gradients

from kprune.regularizers import HierarchicalGroupSparsity
from kprune.regularizers import attach
from kprune.regularizers.shrinkage import Shrinkage

LAYERS = {
    "one group": lambda: keras.layers.Conv2D(32, 3, name="c"),
    "eight groups": lambda: keras.layers.Conv2D(32, 3, groups=8, name="c"),
    "depthwise": lambda: keras.layers.DepthwiseConv2D(3, name="c"),
    "transposed": lambda: keras.layers.Conv2DTranspose(16, 3, name="c"),
}


def model_of(layer, seed=0):
    inputs = keras.Input((4, 4, 32))
    model = keras.Model(inputs, layer(inputs))
    random = np.random.default_rng(seed)
    layer.kernel.assign(random.normal(0, 0.1, layer.kernel.shape))
    return model


def length(variable):
    return float(np.linalg.norm(keras.ops.convert_to_numpy(variable)))


@pytest.mark.parametrize("name", LAYERS)
def test_kernels_lose_the_share_from_the_penalty_alone(name):
    model = model_of(LAYERS[name]())
    kernel = model.get_layer("c").kernel
    attach(model, Shrinkage(HierarchicalGroupSparsity(), 0.1, 1.0), ["c"])
    before, steps = length(kernel), 3
    for _ in range(steps):
        (slope,) = gradients(lambda: sum(model.losses), [kernel])
        kernel.assign(kernel - slope / steps)
    assert 1 - length(kernel) / before == pytest.approx(0.1, rel=0.1)


@keras.saving.register_keras_serializable(package="tests")
class Constant(keras.regularizers.Regularizer):
    def __init__(self, strength=1.0):
        self.strength = strength

    def __call__(self, x):
        return self.strength * keras.ops.sum(keras.ops.ones_like(x))

    def get_config(self):
        return {"strength": self.strength}


@pytest.mark.parametrize("name", LAYERS)
def test_a_penalty_that_shrinks_nothing_is_said_with_the_kernel(name):
    model = model_of(LAYERS[name]())
    with pytest.raises(ValueError, match="kernel 'c/kernel' shrinks"):
        attach(model, Shrinkage(Constant(), 0.1, 1.0), ["c"])
