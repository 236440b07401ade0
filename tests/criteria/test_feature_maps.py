"""Criteria on whole feature maps, against NumPy on the plain model's."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import kprune
from kprune import criteria


@pytest.fixture(scope="module")
def plain():
    inputs = keras.Input((6, 6, 2), name="images")
    x = keras.layers.Conv2D(5, 3, padding="same", name="conv")(inputs)
    x = keras.layers.ReLU(name="relu")(x)
    y = keras.layers.Conv2D(4, 3, activation="tanh", name="left")(x)
    z = keras.layers.AveragePooling2D(2, name="pool")(x)
    z = keras.layers.Conv2D(3, 1, name="right")(z)
    z = keras.layers.GlobalAveragePooling2D(name="gap")(z)
    y = keras.layers.Flatten(name="flat")(y)
    x = keras.layers.Concatenate()([y, z])
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(x))
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=w.shape) for w in model.weights])
    return model


X = np.random.default_rng(1).normal(size=(40, 6, 6, 2)).astype("float32")


def score(plain, criterion, data=X):
    masked = kprune.wrap(plain)
    found = kprune.Session(masked, data).score(criterion)
    assert all(getattr(w, "observer", None) is None for w in masked.layers)
    return found


def maps(plain, *names):
    """What layers put out, channels first, `(samples, channels, ...)`."""
    tensors = [plain.get_layer(n).output for n in names]
    found = keras.Model(plain.inputs, tensors).predict(X, verbose=0)
    return [np.moveaxis(a, -1, 1).astype("float64") for a in found]


def test_entropy_of_the_histogram_of_means(plain):
    def entropy(means):
        counts, _ = np.histogram(means, 7)
        shares = counts[counts > 0] / counts.sum()
        return -(shares * np.log(shares)).sum()

    relu, pool, left, right = maps(plain, "relu", "pool", "left", "gap")
    found = score(plain, criteria.Entropy(bins=7))
    ways = [
        [entropy(a[:, c].reshape(40, -1).mean(1)) for c in range(5)]
        for a in (relu, pool)
    ]
    np.testing.assert_allclose(found["conv"], np.mean(ways, axis=0))
    expected = [entropy(left[:, c].reshape(40, -1).mean(1)) for c in range(4)]
    np.testing.assert_allclose(found["left"], expected)
    expected = [entropy(right[:, c]) for c in range(3)]
    np.testing.assert_allclose(found["right"], expected)


def test_a_channel_that_says_the_same_of_all_has_no_entropy(plain):
    copy = keras.models.clone_model(plain)
    copy.set_weights(plain.get_weights())
    kernel, bias = copy.get_layer("conv").get_weights()
    kernel[..., 2], bias[2] = 0.0, 0.7
    copy.get_layer("conv").set_weights([kernel, bias])
    found = score(copy, "entropy")["conv"]
    assert found[2] == 0 and (np.delete(found, 2) > 0.5).all()


def test_hrank_is_the_mean_rank(plain):
    relu, pool, _, _ = maps(plain, "relu", "pool", "left", "gap")
    expected = [
        (
            np.linalg.matrix_rank(relu[:10, c], rtol=6e-5).mean()
            + np.linalg.matrix_rank(pool[:10, c], rtol=3e-5).mean()
        )
        / 2
        for c in range(5)
    ]
    found = score(plain, criteria.HRank(samples=10))
    np.testing.assert_allclose(found["conv"], expected)
    # A Flatten leaves no matrix, a mean no map.
    assert set(found["left"]) == {1.0} and set(found["right"]) == {1.0}


def test_chip_is_the_fall_of_the_nuclear_norm(plain):
    relu, pool, left, _ = maps(plain, "relu", "pool", "left", "gap")

    def independence(a):
        rows = a.reshape(*a.shape[:2], -1)[:8]
        whole = np.linalg.norm(rows, "nuc", axis=(1, 2))
        falls = []
        for c in range(rows.shape[1]):
            without = rows.copy()
            without[:, c] = 0
            falls.append(whole - np.linalg.norm(without, "nuc", axis=(1, 2)))
        return np.mean(falls, axis=1)

    found = score(plain, criteria.CHIP(samples=8))
    expected = (independence(relu) + independence(pool)) / 2
    np.testing.assert_allclose(found["conv"], expected, rtol=1e-4)
    np.testing.assert_allclose(found["left"], independence(left), rtol=1e-4)


def test_chip_lets_a_copy_go_first(plain):
    copy = keras.models.clone_model(plain)
    copy.set_weights(plain.get_weights())
    kernel, bias = copy.get_layer("conv").get_weights()
    kernel[..., 1], bias[1] = kernel[..., 3], bias[3]
    copy.get_layer("conv").set_weights([kernel, bias])
    found = score(copy, "chip")["conv"]
    assert set(np.argsort(found)[:2]) == {1, 3}


@pytest.mark.parametrize("name", ["entropy", "hrank", "chip"])
def test_batches_do_not_matter_and_samples_limit(plain, name):
    kind = type(criteria.get(name))
    few = score(
        plain, kind(samples=12), iter([(X[:5],), (X[5:20],), (X[20:],)])
    )
    whole = score(plain, kind(samples=None), X[:12])
    for group in whole:
        np.testing.assert_allclose(few[group], whole[group], rtol=1e-4)


@pytest.mark.parametrize("name", ["entropy", "hrank", "chip"])
def test_samples_are_asked_for(plain, name):
    with pytest.raises(ValueError, match="data"):
        kprune.Session(kprune.wrap(plain)).score(name)
