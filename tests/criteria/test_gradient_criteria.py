"""Criteria on gradients, against the backend's own and finite differences."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from backends import gradients
from fitting import loss
from models import convolutions

import kprune
from kprune import criteria

NAMES = ("snip", "grasp", "fisher", "obd")


def samples(count=6):
    rng = np.random.default_rng(2)
    return rng.normal(size=(count, 8, 8, 3)), rng.integers(0, 3, count)


@pytest.fixture
def masked():
    model = convolutions([4, 5], norms=1)
    rng = np.random.default_rng(1)
    model.set_weights([rng.normal(0.1, 0.3, w.shape) for w in model.weights])
    model.get_layer("norm1").moving_variance.assign(rng.uniform(0.5, 2, 4))
    masked = kprune.wrap(model)
    masked.compile(keras.optimizers.SGD(0.1), loss())
    return masked


def score(masked, criterion):
    return kprune.Session(masked, samples()).score(criterion)


def weights(masked):
    """The weights of each layer; of `conv2`, the kernel is the first."""
    names = ("conv1", "norm1", "conv2", "head")
    return {n: masked.get_layer(n).layer.trainable_variables for n in names}


def slopes(masked, x, y):
    found = weights(masked)
    variables = [v for group in found.values() for v in group]
    flat = iter(
        gradients(lambda: loss()(y, masked(x, training=False)), variables)
    )
    return {n: [next(flat) for _ in group] for n, group in found.items()}


def values(masked):
    return {
        n: [keras.ops.convert_to_numpy(v).astype("float64") for v in group]
        for n, group in weights(masked).items()
    }


def coupled(arrays):
    """Sums over all that goes with the channels of conv1 and conv2."""
    (k1,), (gamma, beta) = arrays["conv1"], arrays["norm1"]
    (k2, b2), (head, _) = arrays["conv2"], arrays["head"]
    return {
        "conv1": k1.sum((0, 1, 2)) + gamma + beta + k2.sum((0, 1, 3)),
        "conv2": k2.sum((0, 1, 2)) + b2 + head.sum(1),
    }


def combined(function, *arrays):
    return {
        n: [
            function(*each)
            for each in zip(*(a[n] for a in arrays), strict=True)
        ]
        for n in arrays[0]
    }


def same(found, expected, rtol):
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=rtol, err_msg=name)


def test_snip_is_the_share_of_all_sensitivity(masked):
    w, g = values(masked), slopes(masked, *samples())
    sums = coupled(combined(lambda a, b: np.abs(a * b), w, g))
    total = sum(s.sum() for s in sums.values())
    found = score(masked, "snip")
    same(found, {n: s / total for n, s in sums.items()}, 1e-4)
    assert sum(s.sum() for s in found.values()) == pytest.approx(1)


def each(masked):
    x, y = samples()
    return [slopes(masked, x[n : n + 1], y[n : n + 1]) for n in range(len(x))]


def test_fisher_squares_what_each_sample_says_of_a_filter(masked):
    w = values(masked)
    totals = {"conv1": 0.0, "conv2": 0.0}
    for g in each(masked):
        p = combined(np.multiply, w, g)
        totals["conv1"] += p["conv1"][0].sum((0, 1, 2)) ** 2
        totals["conv2"] += (p["conv2"][0].sum((0, 1, 2)) + p["conv2"][1]) ** 2
    same(
        score(masked, criteria.Fisher(samples=None)),
        {n: t / 12 for n, t in totals.items()},
        1e-3,
    )


def test_fisher_is_that_of_the_activations(masked):
    """The paper's own formula, by the slope of a factor on each channel."""
    x, y = samples()
    layer = masked.get_layer("conv2").layer
    kernel, bias = (keras.ops.convert_to_numpy(w) for w in layer.weights)
    factor, squares = keras.Variable(np.ones(5)), np.zeros(5)

    def value(n):
        features = keras.Model(masked.input, masked.get_layer("conv2").input)
        before = features(x[n : n + 1], training=False)
        z = keras.ops.conv(before, kernel, padding="valid") + bias
        means = keras.ops.mean(keras.ops.relu(z * factor), axis=(1, 2))
        return loss()(y[n : n + 1], masked.get_layer("head").layer(means))

    for n in range(len(x)):
        squares += gradients(lambda n=n: value(n), [factor])[0] ** 2
    found = score(masked, criteria.Fisher(samples=None))["conv2"]
    np.testing.assert_allclose(found, squares / 12, rtol=1e-3)


def test_obd_weighs_squared_weights_by_squared_gradients(masked):
    w = values(masked)
    curvature = [combined(np.square, g) for g in each(masked)]
    h = combined(lambda *a: np.mean(a, axis=0), *curvature)
    expected = coupled(combined(lambda a, b: 0.5 * a**2 * b, w, h))
    same(score(masked, criteria.OBD(samples=None)), expected, 1e-3)


def test_grasp_is_the_slope_of_the_gradients_norm(masked):
    """d/dt |g(w - t w_j)|^2 = -2 (w_j H g), one channel after the other."""
    found = score(masked, "grasp")
    x, y = samples()
    conv2, head = (masked.get_layer(n).layer for n in ("conv2", "head"))
    scaled = [(conv2.kernel, -1), (conv2.bias, -1), (head.kernel, 0)]

    def norm():
        parts = slopes(masked, x, y).values()
        return sum(float((g**2).sum()) for part in parts for g in part)

    expected = []
    for channel in range(5):
        ends = []
        for step in (0.02, -0.02):
            before = [keras.ops.convert_to_numpy(v) for v, _ in scaled]
            for (variable, axis), value in zip(scaled, before, strict=True):
                shape = np.ones(value.ndim, int)
                shape[axis] = value.shape[axis]
                factor = np.ones(value.shape[axis])
                factor[channel] -= step
                variable.assign(value * factor.reshape(shape))
            ends.append(norm())
            for (variable, _), value in zip(scaled, before, strict=True):
                variable.assign(value)
        expected.append((ends[0] - ends[1]) / 0.04 / -2)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found["conv2"], expected, atol=0.05 * scale)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_changes_and_removed_channels_count_nothing(masked, name):
    kprune.set_masks(masked, {"conv1": [1, 0, 1, 1]})
    session = kprune.Session(masked, samples())
    session.settle()
    before = masked.get_weights()
    found = session.score(name)
    for old, new in zip(before, masked.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)
    assert found["conv1"][1] == 0
    assert found["conv1"][[0, 2, 3]].all()


@pytest.mark.parametrize("name", NAMES)
def test_labels_are_asked_for(masked, name):
    with pytest.raises(ValueError, match="targets"):
        kprune.Session(masked, samples()[0]).score(name)


@pytest.mark.parametrize("name", ["fisher", "obd"])
def test_a_draw_depends_on_the_seed(masked, name):
    kind = type(criteria.get(name))
    one, again, other = (
        score(masked, kind(samples=2, seed=seed))["conv2"] for seed in (0, 0, 3)
    )
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other)
