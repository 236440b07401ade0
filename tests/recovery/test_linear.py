"""Layers as matrices, against the layers themselves."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from keras import layers

from kprune.recovery._linear import linear


def assert_same(layer, x):
    """`rows @ matrix + bias` is what the layer computes."""
    y = keras.ops.convert_to_numpy(layer(x))
    view = linear(layer)
    wanted = view.results(y)
    matrix = view.to_matrix(keras.ops.convert_to_numpy(view.kernel))
    bias = keras.ops.convert_to_numpy(layer.bias)
    everything = np.ones(view.channels, bool)
    # In parts of two samples and what is left of them.
    parts = [(x[:2], y[:2]), (x[2:], y[2:])]
    given, results = zip(*parts, strict=True)
    chunks = list(view.chunks(given, 10**9, everything))
    rows = np.concatenate([rows for rows, *_ in chunks])
    samples = np.concatenate([samples for *_, samples in chunks])
    targets = [view.results(results[n])[which] for _, n, which, _ in chunks]
    np.testing.assert_array_equal(np.concatenate(targets), wanted)
    np.testing.assert_allclose(rows @ matrix + bias, wanted, atol=1e-4)
    each = len(wanted) // len(x)
    np.testing.assert_array_equal(samples, np.repeat(np.arange(len(x)), each))
    some = everything.copy()
    some[0] = False
    fewer = np.concatenate(
        [rows for rows, *_ in view.chunks(given, 10**9, some)]
    )
    np.testing.assert_array_equal(fewer, rows[:, view.columns_of(some)])
    kernel = keras.ops.convert_to_numpy(view.kernel)
    np.testing.assert_array_equal(view.to_kernel(matrix), kernel)


@settings(max_examples=20)
@given(
    rank=st.integers(1, 3),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    padding=st.sampled_from(["same", "valid"]),
)
def test_convolutions(rank, kernel, stride, dilation, padding):
    if stride > 1:
        dilation = 1
    kind = {1: layers.Conv1D, 2: layers.Conv2D, 3: layers.Conv3D}[rank]
    if rank == 3 and keras.config.backend() == "tensorflow":
        dilation = 1  # TensorFlow has no dilated Conv3D on CPU
    layer = kind(
        4,
        kernel,
        strides=stride,
        dilation_rate=dilation,
        padding=padding,
        bias_initializer="normal",
    )
    x = np.random.default_rng(0).normal(size=(3, *[6, 7, 5][:rank], 3))
    assert_same(layer, x.astype("float32"))


def test_causal_convolution():
    layer = layers.Conv1D(4, 3, padding="causal", dilation_rate=2)
    x = np.random.default_rng(0).normal(size=(3, 9, 2)).astype("float32")
    assert_same(layer, x)


@pytest.mark.parametrize("shape", [(5, 3), (5, 4, 3), (5, 2, 4, 3)])
def test_dense(shape):
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    assert_same(layers.Dense(4, bias_initializer="normal"), x)


def test_a_limit_takes_the_same_random_rows_each_time():
    layer = layers.Conv2D(4, 3)
    x = np.random.default_rng(0).normal(size=(8, 9, 9, 2)).astype("float32")
    layer(x)
    view = linear(layer)
    alive = np.ones(2, bool)
    first, again = (list(view.chunks([x], 50, alive)) for _ in range(2))
    assert sum(len(rows) for rows, *_ in first) == 50
    for one, other in zip(first, again, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_chunks_hold_samples_of_one_kind():
    layer = layers.Conv1D(4, 3)
    x = np.random.default_rng(0).normal(size=(10, 9, 2)).astype("float32")
    layer(x)
    view, alive = linear(layer), np.ones(2, bool)
    chunks = list(view.chunks([x[:6], x[6:]], 10**9, alive, folds=5))
    kinds = [set((samples % 5 == 4).tolist()) for *_, samples in chunks]
    assert kinds == [{False}, {True}, {False}, {True}]
    samples = np.concatenate([samples for *_, samples in chunks])
    assert np.bincount(samples).tolist() == [7] * 10


@pytest.mark.parametrize(
    "layer",
    [
        layers.Conv2D(4, 3, groups=2),
        layers.DepthwiseConv2D(3),
        layers.Conv2DTranspose(4, 3),
        layers.SeparableConv2D(4, 3),
        layers.LSTM(3),
    ],
)
def test_other_layers_are_no_matrix(layer):
    assert linear(layer) is None
