"""The greedy choice of ThiNet, against the literal one on whole outputs."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from models import convolutions

import kprune


def inputs(count=64):
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, 8, 8, 3)).astype("float32")


def net():
    model = convolutions([6, 5], padding="same")
    rng = np.random.default_rng(2)
    model.set_weights([rng.normal(0.1, 0.3, w.shape) for w in model.weights])
    return model


def literal(contributions):
    """The order of removal: `contributions` are `(channels, outputs)`."""
    gone, order = [], []
    while len(gone) < len(contributions):
        errors = {
            c: np.square(contributions[[*gone, c]].sum(0)).sum()
            for c in range(len(contributions))
            if c not in gone
        }
        gone.append(min(errors, key=errors.get))
        order.append(errors[gone[-1]])
    return gone, np.array(order)


def test_the_order_and_the_errors_are_the_literal_ones():
    model, x = net(), inputs()
    reading = model.get_layer("conv2")
    features = keras.Model(model.input, reading.input).predict(x, verbose=0)
    kernel = keras.ops.convert_to_numpy(reading.kernel)
    contributions = []
    for channel in range(6):
        only = np.zeros(kernel.shape, "float32")
        only[:, :, channel] = kernel[:, :, channel]
        out = keras.ops.conv(features, only, padding="same")
        contributions.append(keras.ops.convert_to_numpy(out).ravel())
    contributions = np.array(contributions, "float64")
    gone, errors = literal(contributions)
    masked = kprune.wrap(model)
    criterion = kprune.criteria.ThiNet(rows=10**6)
    found = kprune.Session(masked, x).score(criterion)["conv1"]
    assert list(np.argsort(found)) == gone
    total = np.square(contributions.sum(0)).sum()
    expected = np.maximum.accumulate(errors / total)
    np.testing.assert_allclose(np.sort(found), expected, rtol=0.02)


def test_what_cancels_goes_together():
    model = net()
    kernel, bias = model.get_layer("conv1").get_weights()
    kernel[..., 1], bias[1] = kernel[..., 4], bias[4]
    model.get_layer("conv1").set_weights([kernel, bias])
    kernel, bias = model.get_layer("conv2").get_weights()
    kernel[:, :, 1] = -kernel[:, :, 4]
    model.get_layer("conv2").set_weights([kernel, bias])
    found = kprune.Session(kprune.wrap(model), inputs()).score("thinet")
    order = list(np.argsort(found["conv1"]))
    assert abs(order.index(1) - order.index(4)) == 1


def test_dead_channels_go_first():
    model = net()
    kernel, bias = model.get_layer("conv1").get_weights()
    kernel[..., 3], bias[3] = 0.0, 0.0
    model.get_layer("conv1").set_weights([kernel, bias])
    found = kprune.Session(kprune.wrap(model), inputs()).score("thinet")
    assert found["conv1"].argmin() == 3


def test_samples_are_asked_for():
    with pytest.raises(ValueError, match="data"):
        kprune.Session(kprune.wrap(net())).score("thinet")
