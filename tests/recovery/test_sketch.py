"""Frequent Directions, and kernels that are sketches."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from models import convolutions
from models import dense_layers

import kprune
from kprune.recovery.sketch import Sketch
from kprune.recovery.sketch import frequent_directions


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(1, 40),
    d=st.integers(2, 30),
    count=st.integers(2, 29),
    seed=st.integers(0, 99),
)
def test_the_published_bound_holds(n, d, count, seed):
    count = min(count, d)
    a = np.random.default_rng(seed).normal(size=(n, d)) ** 3
    b = frequent_directions(a, count)
    assert b.shape == (count, d)
    apart = np.linalg.norm(a.T @ a - b.T @ b, 2)
    assert apart <= 2 * np.square(a).sum() / count + 1e-9


def test_few_rows_are_kept_as_they_are():
    a = np.random.default_rng(0).normal(size=(3, 8))
    b = frequent_directions(a, 5)
    np.testing.assert_array_equal(b[:3], a)
    assert not b[3:].any()


def values(variable):
    return keras.ops.convert_to_numpy(variable).astype("float64")


def net():
    model = convolutions([8, 6], norms=1, padding="same")
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=w.shape) for w in model.weights])
    model.get_layer("norm1").moving_variance.assign(rng.uniform(0.5, 2, 8))
    return model


def test_kernels_are_the_sketches_of_the_whole_ones():
    model = net()
    allocation = {"conv1": 0.5, "conv2": 0.5}
    masked = kprune.prune(model, "l2", allocation=allocation, recover="sketch")
    compact = kprune.rebuild(masked)
    whole = values(model.get_layer("conv1").kernel).reshape(27, 8).T
    found = values(compact.get_layer("conv1").kernel).reshape(27, 4).T
    np.testing.assert_allclose(found, frequent_directions(whole, 4), atol=1e-5)
    norm = compact.get_layer("norm1")
    assert [float(values(w).mean()) for w in norm.weights] == [1, 0, 0, 1]


def test_weights_of_removed_inputs_are_not_sketched():
    model = net()
    allocation = {"conv1": 0.5, "conv2": 0.5}
    masked = kprune.prune(model, "l2", allocation=allocation, recover="sketch")
    kernel = values(model.get_layer("conv2").kernel)
    rows = np.moveaxis(kernel, 2, 0).reshape(8, -1)
    inputs = frequent_directions(rows, 4).reshape(4, 3, 3, 6)
    part = np.moveaxis(inputs, 0, 2).reshape(36, 6).T
    bias = values(model.get_layer("conv2").bias)[:, None]
    expected = frequent_directions(np.hstack([part, bias]), 3)
    found = values(kprune.rebuild(masked).get_layer("conv2").kernel)
    np.testing.assert_allclose(
        found.reshape(36, 3).T, expected[:, :-1], atol=1e-4
    )


def test_aligned_sketches_are_exact_for_linear_layers_of_low_rank():
    model = dense_layers([12], inputs=9, activation=None)
    rng = np.random.default_rng(1)
    low = rng.normal(size=(9, 3)) @ rng.normal(size=(3, 12))
    model.get_layer("d0").set_weights([low, np.zeros(12)])
    x = rng.normal(size=(20, 9)).astype("float32")
    before = model.predict(x, verbose=0)
    errors = {}
    for aligned in (False, True):
        masked = kprune.prune(
            model,
            "l2",
            allocation={"d0": 0.5},
            recover=Sketch(aligned=aligned),
        )
        after = kprune.rebuild(masked).predict(x, verbose=0)
        errors[aligned] = np.abs(after - before).max() / np.abs(before).max()
    assert errors[True] < 1e-4 < 0.1 < errors[False]


def test_residual_streams_stay_as_they_are(caplog):
    x = inputs = keras.Input((8, 8, 3))
    x = short = keras.layers.Conv2D(6, 3, padding="same", name="stem")(x)
    x = keras.layers.Conv2D(6, 3, padding="same", name="branch")(x)
    x = keras.layers.ReLU()(keras.layers.Add()([x, short]))
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(x))
    (name,) = [g.name for g in kprune.trace(model).prunable]
    with caplog.at_level("INFO", logger="kprune"):
        sketched = kprune.prune(
            model, "l2", allocation={name: 0.5}, recover="sketch"
        )
    plain = kprune.prune(model, "l2", allocation={name: 0.5}, recover=[])
    for a, b in zip(sketched.weights, plain.weights, strict=True):
        np.testing.assert_array_equal(values(a), values(b))
    assert name in caplog.text


def test_channels_that_a_normalisation_ties_are_sketched_with_their_biases():
    x = inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3, name="conv")(x)
    x = keras.layers.GroupNormalization(groups=4)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(x))
    conv = model.get_layer("conv")
    conv.bias.assign(np.arange(1.0, 9.0))
    masked = kprune.prune(
        model, "l2", allocation={"conv": 0.5}, recover="sketch"
    )
    kernel, bias = kprune.rebuild(masked).get_layer("conv").get_weights()
    both = [values(w) for w in conv.weights]
    rows = [v.reshape(-1, 4, 2).transpose(1, 0, 2).reshape(4, -1) for v in both]
    # One channel of each place in a group, of every group, makes a row.
    expected = frequent_directions(np.hstack(rows), 2)
    found = [v.reshape(-1, 2, 2).transpose(1, 0, 2).reshape(2, -1)
             for v in (kernel, bias)]  # fmt: skip
    np.testing.assert_allclose(
        np.abs(np.hstack(found)).sum(), np.abs(expected).sum(), rtol=1e-4
    )


@pytest.mark.parametrize("aligned", [False, True])
def test_what_is_removed_stays_0_and_rebuild_is_exact(aligned):
    masked = kprune.prune(
        net(), "l2", {"macs": 0.5}, "uniform", recover=Sketch(aligned)
    )
    mask = kprune.masks(masked)["conv1"]
    kernel = values(masked.get_layer("conv1").layer.kernel)
    assert (kernel[..., mask == 0] == 0).all()
    x = np.random.default_rng(3).normal(size=(4, 8, 8, 3)).astype("float32")
    np.testing.assert_allclose(
        kprune.rebuild(masked).predict(x, verbose=0),
        masked.predict(x, verbose=0),
        rtol=1e-4,
        atol=1e-5,
    )
