"""Orthonormality, against NumPy."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from backends import gradients
from models import convolutions

from kprune import regularizers
from kprune.regularizers import Orthonormal


def kernel(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("norm", ["l1", "frobenius"])
@pytest.mark.parametrize("shape", [(3, 3, 2, 5), (1, 1, 2, 5), (4, 6)])
def test_the_penalty_is_that_of_the_smaller_product(norm, shape):
    value = kernel(*shape)
    p = value.reshape(-1, shape[-1]).T
    if len(p) > p.shape[1]:
        p = p.T
    apart = p @ p.T - np.eye(len(p))
    total = np.abs(apart).sum() if norm == "l1" else (apart**2).sum()
    found = Orthonormal(0.3, norm)(value.astype("float32"))
    assert float(found) == pytest.approx(0.3 * total, rel=1e-5)


@pytest.mark.parametrize("norm", ["l1", "frobenius"])
def test_orthonormal_filters_cost_nothing(norm):
    rows, _ = np.linalg.qr(kernel(18, 5))
    value = rows.reshape(3, 3, 2, 5)
    assert float(Orthonormal(1.0, norm)(value)) == pytest.approx(0, abs=1e-5)
    variable = keras.Variable(np.eye(4))
    (slope,) = gradients(lambda: Orthonormal(1.0, norm)(variable), [variable])
    np.testing.assert_allclose(slope, np.zeros((4, 4)), atol=1e-6)


@pytest.mark.parametrize("norm", ["l1", "frobenius"])
def test_descent_makes_filters_orthonormal(norm):
    variable = keras.Variable(kernel(3, 3, 2, 4, seed=1) / 3)
    penalty = Orthonormal(1.0, norm)
    rate = 0.002 if norm == "l1" else 0.02
    for _ in range(300):
        (slope,) = gradients(lambda: penalty(variable), [variable])
        variable.assign(variable - rate * slope)
    rows = keras.ops.convert_to_numpy(variable).reshape(18, 4).T
    np.testing.assert_allclose(rows @ rows.T, np.eye(4), atol=0.1)


def test_layers_share_the_penalty_by_the_roots_of_their_sizes():
    model = convolutions([4, 9], shape=(8, 8, 3))
    names = regularizers.attach(model, Orthonormal(0.5))
    assert names == ["conv1", "conv2"]
    shares = {
        name: model.get_layer(name).kernel.regularizer.regularizer
        for name in names
    }
    assert shares["conv1"].share == pytest.approx(2 / 5)
    assert shares["conv2"].share == pytest.approx(3 / 5)
    assert {s.strength for s in shares.values()} == {0.5}
    assert regularizers.detach(model) == names


def test_filters_of_one_group_count_for_the_share():
    x = inputs = keras.Input((8, 8, 8))
    x = keras.layers.Conv2D(8, 3, groups=2, name="apart")(x)
    x = keras.layers.Conv2DTranspose(9, 3, name="up")(x)
    x = keras.layers.DepthwiseConv2D(3, name="deep")(x)
    model = keras.Model(inputs, x)
    names = regularizers.attach(
        model, Orthonormal(0.5), ["apart", "up", "deep"]
    )
    shares = [
        model.get_layer(name).kernel.regularizer.regularizer.share
        for name in names
    ]
    assert shares == pytest.approx([2 / 6, 3 / 6, 1 / 6])


def test_it_comes_back_from_its_configuration():
    penalty = Orthonormal(0.5, "frobenius", 0.25)
    saved = keras.saving.serialize_keras_object(penalty)
    loaded = keras.saving.deserialize_keras_object(saved)
    assert loaded.get_config() == penalty.get_config()
    assert repr(loaded) == repr(penalty)


def test_wrong_arguments_are_said():
    with pytest.raises(ValueError, match="Did you mean 'frobenius'"):
        Orthonormal(norm="frobenus")
    with pytest.raises(ValueError, match="0 or more"):
        Orthonormal(-1.0)
    with pytest.raises(ValueError, match=r"Received shape \(3,\)"):
        Orthonormal()(np.ones(3))
