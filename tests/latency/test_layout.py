"""The fingerprints by which tables know models."""

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import kprune
from kprune.latency import LatencyTable
from kprune.latency import predict
from kprune.latency.layout import Layout
from kprune.latency.layout import Placed
from kprune.latency.layout import fingerprint


def of(model):
    return fingerprint(kprune.trace(model), "float32")


def network(change=lambda x: x, **conv):
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, padding="same", **conv)(x)
    x = layers.UpSampling2D(2)(change(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(2)(x))


def resized(kind):
    return network(lambda x: layers.Resizing(8, 8, interpolation=kind)(x))


@pytest.mark.parametrize(
    "one, other",
    [
        (network(activation="relu"), network(activation="swish")),
        (network(), network(dilation_rate=2)),
        (resized("nearest"), resized("bilinear")),
        (network(layers.Lambda(ops.relu)), network(layers.Lambda(ops.silu))),
        (
            network(layers.Lambda(lambda x: ops.relu(x))),
            network(layers.Lambda(lambda x: ops.silu(x))),
        ),
        (
            network(lambda x: ops.leaky_relu(x, 0.1)),
            network(lambda x: ops.leaky_relu(x, 0.2)),
        ),
        (network(lambda x: x**2), network(lambda x: x**0.5)),
        (network(lambda x: x[:, ::2]), network(lambda x: x[:, :4])),
    ],
)
def test_other_operators_differ(one, other):
    assert of(one) != of(other)


def test_what_takes_no_time_does_not_count():
    kwargs = {"activation": "relu", "kernel_initializer": "he_normal"}
    model = network(
        lambda x: layers.Activation("silu")(x**2), **kwargs, name="first"
    )
    same = network(
        lambda x: layers.Activation("silu", name="b")(x**2),
        activation="relu",
        kernel_regularizer="l2",
        bias_constraint="non_neg",
        dtype="mixed_float16",
        trainable=False,
    )
    assert of(model) == of(same)
    assert of(kprune.wrap(model)) == of(model)


def test_a_loaded_model_is_the_same(tmp_path):
    model = network(
        lambda x: layers.Dropout(np.float64(0.5), seed=3)(ops.clip(x, 0, 6))
    )
    model.save(tmp_path / "model.keras")
    assert of(keras.models.load_model(tmp_path / "model.keras")) == of(model)


def test_older_tables_serve_with_a_warning(caplog):
    model = network(activation="relu")
    graph = kprune.trace(model)
    table = LatencyTable("a board")
    old = fingerprint(graph, "float32", version=1)
    table.add("MEAN() x", 0, 0, 2.0)
    table.add_model(old, Layout((Placed("MEAN() x"),)))
    assert predict(model, table) == 2.0
    assert "a board" in caplog.text and "older version" in caplog.text
    caplog.clear()
    table.add_model(of(model), Layout((Placed("MEAN() x"),)))
    assert predict(model, table) == 2.0
    assert not caplog.text
