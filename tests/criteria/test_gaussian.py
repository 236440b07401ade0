"""What a batch normalisation says of activations, against random numbers."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import kprune
from kprune.criteria._gaussian import moments

BETA = np.array([-1.5, -0.2, 0.0, 0.7, 5.0, 0.3, -0.4])
GAMMA = np.array([0.5, -1.0, 0.3, 2.0, 1.5, 0.0, 0.0])
NOISE = np.random.default_rng(0).normal(size=200_000)

FUNCTIONS = {
    "linear": (keras.activations.linear, lambda a: a),
    "relu": (keras.activations.relu, lambda a: np.maximum(a, 0)),
    "relu6": (keras.activations.relu6, lambda a: np.clip(a, 0, 6)),
    "leaky_relu": (
        layers.LeakyReLU(negative_slope=0.3).call,
        lambda a: np.where(a > 0, a, 0.3 * a),
    ),
    "absolute": (keras.ops.absolute, np.abs),
    "silu": (keras.activations.silu, lambda a: a / (1 + np.exp(-a))),
    "tanh": (keras.activations.tanh, np.tanh),
    "hard_sigmoid": (
        keras.activations.hard_sigmoid,
        lambda a: np.clip(a / 6 + 0.5, 0, 1),
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_moments_are_those_of_random_numbers(name):
    function, reference = FUNCTIONS[name]
    found = moments(BETA, GAMMA, function)
    z = reference(BETA[:, None] + GAMMA[:, None] * NOISE)
    np.testing.assert_allclose(found.size, np.abs(z).mean(1), atol=1e-2)
    np.testing.assert_allclose(found.mean, z.mean(1), atol=1e-2)
    np.testing.assert_allclose(
        found.square, (z**2).mean(1), rtol=2e-2, atol=1e-2
    )


def net():
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, padding="same", use_bias=False, name="stem")(x)
    x = layers.BatchNormalization(name="norm1")(x)
    x = short = layers.ReLU(6.0, name="relu6")(x)
    x = layers.Conv2D(5, 3, padding="same", use_bias=False, name="inner")(x)
    x = layers.BatchNormalization(scale=False, name="norm2")(x)
    x = layers.Dropout(0.5)(keras.ops.silu(x))
    x = layers.Conv2D(6, 3, padding="same", use_bias=False, name="out")(x)
    x = layers.BatchNormalization(name="norm3")(x)
    x = layers.ReLU()(layers.Add()([x, short]))
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(4, activation="relu", name="hidden")(x)
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    rng = np.random.default_rng(3)
    for name in ("norm1", "norm2", "norm3"):
        layer = model.get_layer(name)
        for variable in layer.trainable_variables:
            variable.assign(rng.normal(size=variable.shape))
    return model


def values(variable):
    return keras.ops.convert_to_numpy(variable).astype("float64")


@pytest.mark.parametrize("wrapped", [False, True])
def test_scores_follow_the_activation_behind_each_norm(wrapped):
    model = net()
    norm1, norm2, norm3 = (model.get_layer(f"norm{n}") for n in (1, 2, 3))
    groups = kprune.trace(kprune.wrap(model) if wrapped else model).prunable
    found = kprune.criteria.score_groups("bn_act", groups)
    beta, gamma = values(norm1.beta), values(norm1.gamma)
    clipped = np.clip(beta[:, None] + gamma[:, None] * NOISE, 0, 6)
    beta, gamma = values(norm3.beta), values(norm3.gamma)
    summed = np.abs(beta[:, None] + gamma[:, None] * NOISE)
    np.testing.assert_allclose(
        found["stem"], (clipped.mean(1) + summed.mean(1)) / 2, atol=1e-2
    )
    a = values(norm2.beta)[:, None] + NOISE
    silu = a / (1 + np.exp(-a))
    np.testing.assert_allclose(found["inner"], np.abs(silu).mean(1), atol=1e-2)
    spread = kprune.criteria.score_groups("bn_std", groups)
    np.testing.assert_allclose(spread["inner"], silu.std(1), atol=1e-2)
    assert (found["hidden"] > 0).all()


def test_a_constant_channel_is_large_but_does_not_spread():
    model = net()
    model.get_layer("norm1").gamma.assign([0.0, 1, 1, 1, 1, 1])
    model.get_layer("norm1").beta.assign([3.0, 0, 0, 0, 0, 0])
    model.get_layer("norm3").gamma.assign([0.0, 1, 1, 1, 1, 1])
    groups = kprune.trace(model).prunable
    size = kprune.criteria.score_groups("bn_act", groups)["stem"]
    spread = kprune.criteria.score_groups("bn_std", groups)["stem"]
    assert size.argmax() == 0 and spread.argmin() == 0
    assert spread[0] == pytest.approx(0, abs=1e-6)


def test_the_norm_may_be_in_a_nested_model():
    inner = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(6, 3, use_bias=False, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(),
        ]
    )
    x = inputs = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D()(inner(x))
    model = keras.Model(inputs, layers.Dense(2)(x))
    groups = kprune.trace(model).prunable
    found = kprune.criteria.score_groups("bn_act", groups)
    # E[max(N(0, 1), 0)]
    np.testing.assert_allclose(found["conv"], np.full(6, 0.39894228), rtol=1e-6)
