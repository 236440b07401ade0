"""Repair without data, on networks whose statistics are those of their data."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from harness import difference
from harness import outputs
from harness import randomise
from keras import layers
from models import convolutions
from models import dense_layers

import kprune
from kprune.graph.sizes import open_size
from kprune.graph.values import read
from kprune.recovery import Synthetic
from kprune.recovery import recover
from kprune.recovery._calibration import calibrated
from kprune.recovery._calibration import noise

MASKS = {"conv1": [1, 0, 1, 1, 0, 1, 1, 1]}


def images(count=256, seed=0):
    """Images as they are: neighbouring pixels and channels are much alike."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 4, 4, 1)).repeat(2, axis=1).repeat(2, axis=2)
    x = x + 0.3 * rng.normal(size=(count, 8, 8, 3))
    return (60 * x + 100).astype("float32")


def chain():
    keras.utils.set_random_seed(0)
    model = convolutions((8, 6), outputs=4, norms=2, padding="same")
    randomise(model)
    norms = [layer for layer in model.layers if hasattr(layer, "momentum")]
    for norm in norms:
        norm.momentum = 0.0
    model(images(), training=True)
    for norm in norms:
        norm.momentum = 0.99
    return model


def pruned(model, masks):
    masked = kprune.wrap(model)
    session = kprune.Session(masked)
    before = session.snapshot()
    session.remove(masks)
    return masked, session, before


def error(model, other, x):
    return float(np.mean((outputs(model, x)[0] - outputs(other, x)[0]) ** 2))


@pytest.mark.parametrize("recovery", ["bias", "reconstruct"])
def test_images_that_it_never_saw_come_out_closer(recovery):
    model, x = chain(), images(seed=1)
    masked, session, before = pruned(model, MASKS)
    start = error(model, masked, x)
    recover(session, before, Synthetic(recovery=recovery))
    assert error(model, masked, x) < 0.5 * start
    assert session.source is None
    compact = kprune.rebuild(masked)
    assert difference(outputs(masked, x), outputs(compact, x)) < 1e-5


def test_calibrated_normalisations_give_what_they_are_known_to_give():
    model = chain()
    masked = kprune.wrap(model)
    session = kprune.Session(masked)
    held = session.snapshot()
    with calibrated(session, 256):
        for name in ("norm1", "norm2"):
            layer = masked.get_layer(name)
            inner = keras.Model(masked.input, layer.output)
            y = outputs(inner, session.samples.inputs(256))[0]
            norm = layer.layer
            np.testing.assert_allclose(
                y.mean(axis=(0, 1, 2)), read(norm.beta), atol=1e-3
            )
            np.testing.assert_allclose(
                y.std(axis=(0, 1, 2)), np.abs(read(norm.gamma)), rtol=2e-2
            )
    now = [read(v).copy() for v in masked.variables]
    held.restore()
    for variable, value in zip(masked.variables, now, strict=True):
        np.testing.assert_allclose(read(variable), value, rtol=1e-5, atol=1e-6)


def test_dropout_does_not_act_while_statistics_are_measured():
    x = inputs = keras.Input((8, 8, 3))
    x = layers.ReLU()(layers.Conv2D(8, 3, padding="same", name="conv")(x))
    x = layers.GaussianNoise(1.0)(layers.Dropout(0.5)(x))
    x = layers.Conv2D(6, 3, padding="same")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.GlobalAveragePooling2D()(x)
    masked = kprune.wrap(keras.Model(inputs, layers.Dense(2)(x)))
    session = kprune.Session(masked)
    with calibrated(session, 64):
        norm = masked.get_layer("norm")
        inner = keras.Model(masked.input, norm.output)
        y = outputs(inner, session.samples.inputs(64))[0]
    np.testing.assert_allclose(y.std(axis=(0, 1, 2)), 1.0, rtol=1e-2)


def strided(strides):
    """A convolutional network for images of any size."""
    x = inputs = keras.Input((None, None, 3))
    for n in range(strides):
        x = layers.Conv2D(6, 3, strides=2, name=f"conv{n}")(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    randomise(model)
    return model


@pytest.mark.parametrize(("strides", "size"), [(1, 32), (5, 64), (8, None)])
def test_images_of_unknown_size_are_large_enough(strides, size):
    model = strided(strides)
    session = kprune.Session(kprune.wrap(model))
    assert open_size(session.masked) == size
    assert Synthetic().applies(session) == (size is not None)
    if size == 64:
        made = noise(session.masked, 4)
        assert made.shape == (32, 64, 64, 3)
        assert not np.isnan(outputs(model, made)[0]).any()
        masked, session, before = pruned(model, {"conv1": [1, 0, 1, 1, 1, 1]})
        start = np.array(read(masked.get_layer("conv2").layer.kernel))
        recover(session, before, Synthetic(32))
        found = read(masked.get_layer("conv2").layer.kernel)
        assert np.isfinite(outputs(masked, made)[0]).all()
        assert np.abs(found - start).max() > 1e-3


def test_frozen_normalisations_and_momenta_stay_as_they_are():
    model = chain()
    model.trainable = False
    masked, session, before = pruned(model, MASKS)
    recover(session, before, "synthetic")
    norm = masked.get_layer("norm1").layer
    assert norm.momentum == 0.99
    assert not norm.trainable
    assert not masked.trainable


def test_a_failure_leaves_the_statistics_as_they_were():
    model = chain()
    masked, session, before = pruned(model, MASKS)
    weights = masked.get_weights()

    def fail(session, before):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        recover(session, before, Synthetic(recovery=fail))
    for a, b in zip(masked.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(a, b)
    assert session.source is None


def tokens():
    x = inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(10, 8)(x)
    x = layers.Conv1D(8, 3, name="conv")(x)
    x = layers.BatchNormalization()(x)
    return keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))


@pytest.mark.parametrize("build", [lambda: dense_layers((8,), 6), tokens])
def test_models_that_tell_nothing_stay_as_they_are(build):
    model = build()
    masked = kprune.prune(model, reduce={"params": 0.2})
    plain = kprune.prune(model, "l1", {"params": 0.2})
    for a, b in zip(masked.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_noise_has_the_models_structure_and_the_spectrum_of_images():
    a, b = keras.Input((16, 16, 3), name="a"), keras.Input((5,), name="b")
    x = layers.Conv2D(4, 3, name="conv")(a)
    x = layers.GlobalAveragePooling2D()(layers.BatchNormalization()(x))
    model = keras.Model(
        {"a": a, "b": b}, layers.Dense(2)(layers.Concatenate()([x, b]))
    )
    made = noise(kprune.wrap(model), 64)
    assert set(made) == {"a", "b"}
    assert made["a"].shape == (64, 16, 16, 3)
    assert made["b"].shape == (64, 5)
    image = made["a"]
    beside = np.corrcoef(image[:, :, :-1].ravel(), image[:, :, 1:].ravel())
    colours = np.corrcoef(image[..., 0].ravel(), image[..., 1].ravel())
    assert beside[0, 1] > 0.5
    assert colours[0, 1] > 0.7
    np.testing.assert_array_equal(made["a"], noise(kprune.wrap(model), 64)["a"])


@pytest.mark.parametrize("places", [-1, 4])
def test_models_of_one_batch_size_are_pruned_without_repair(places):
    inputs = keras.Input(batch_shape=(4, 8, 8, 3))
    x = layers.Conv2D(6, 3, padding="same", name="conv")(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = keras.ops.reshape(x, (places, 64, 6))
    model = keras.Model(inputs, layers.Dense(2)(keras.ops.mean(x, axis=1)))
    masked = kprune.prune(model, reduce={"macs": 0.3})
    assert Synthetic().applies(kprune.Session(masked)) == (places == -1)
    assert kprune.rebuild(masked).get_layer("conv").filters < 6
