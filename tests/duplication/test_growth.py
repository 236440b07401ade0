"""Wider layers compute what they computed, and then learn on their own."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from fitting import arrays
from fitting import loss
from fitting import small_net
from harness import difference
from harness import floatx
from harness import outputs
from harness import prunable_sizes
from harness import random_inputs
from harness import randomise

import kprune
from kprune.duplication import grow


def wrapped(model, skip=None):
    randomise(model)
    eager = keras.config.backend() != "jax"
    model.compile(keras.optimizers.SGD(0.05, 0.9), loss(), run_eagerly=eager)
    return kprune.wrap(model, skip)


def scores(masked):
    return kprune.Session(masked).score("l1")


def test_a_wider_model_computes_the_same():
    model = small_net(8)
    masked = wrapped(model)
    wide = grow(masked, {"conv1": 19, "conv3": 11}, scores(masked))
    assert prunable_sizes(wide) == {"conv1": 19, "conv3": 11}
    assert kprune.cost(wide).macs > kprune.cost(model).macs
    x = random_inputs(model)
    assert difference(outputs(model, x), outputs(wide, x)) <= 1e-5
    # Copies that are still copies are one filter more than once.
    assert prunable_sizes(kprune.rebuild(wide)) == {"conv1": 8, "conv3": 8}
    wide.train_on_batch(*arrays(16))
    wide.train_on_batch(*arrays(16))
    compact = kprune.rebuild(wide)
    assert prunable_sizes(compact) == {"conv1": 19, "conv3": 11}
    assert difference(outputs(wide, x), outputs(compact, x)) <= 1e-5


def test_the_strongest_are_copied_and_removed_ones_are_cut_out():
    masked = wrapped(small_net(8))
    kernel = masked.get_layer("conv3").layer.kernel
    value = np.array(keras.ops.convert_to_numpy(kernel))
    value[..., 5] *= 10
    kernel.assign(value)
    mask = np.ones(8)
    mask[2] = 0
    kprune.Session(masked).remove({"conv3": mask})
    wide = grow(masked, {"conv3": 8}, scores(masked))
    found = keras.ops.convert_to_numpy(wide.get_layer("conv3").layer.kernel)
    strong = np.abs(found - value[..., [5]]).max(axis=(0, 1, 2)) < 1e-6
    assert strong.sum() == 2 and found.shape[-1] == 8
    x = random_inputs(masked)
    assert difference(outputs(masked, x), outputs(wide, x)) <= 1e-5


def test_what_was_skipped_stays_skipped():
    masked = wrapped(small_net(8), skip=["conv3"])
    wide = grow(masked, {"conv1": 10}, scores(masked))
    assert list(kprune.masks(wide)) == ["conv1"]
    with pytest.raises(
        ValueError, match="'conv3', because it is not a prunable group"
    ):
        grow(masked, {"conv3": 10}, scores(masked))


def test_channels_that_are_normalised_together_keep_their_number():
    inputs = keras.Input((4,))
    x = keras.layers.Dense(6, name="one")(inputs)
    x = keras.layers.LayerNormalization()(x)
    x = keras.layers.Dense(6, activation="relu", name="two")(x)
    model = keras.Model(inputs, keras.layers.Dense(3, name="head")(x))
    masked = wrapped(model)
    wide = grow(masked, {"one": 8, "two": 8}, scores(masked))
    assert prunable_sizes(wide) == {"one": 6, "two": 8}
    x = random_inputs(model)
    assert difference(outputs(model, x), outputs(wide, x)) <= 1e-5


def test_channels_that_are_not_the_last_axis_keep_their_number():
    inputs = keras.Input((4, 4, 1))
    x = keras.layers.Conv2D(6, 3, name="conv")(inputs)
    x = keras.layers.Permute((3, 1, 2))(x)
    x = keras.layers.Flatten()(x)
    model = keras.Model(inputs, keras.layers.Dense(3, name="head")(x))
    masked = wrapped(model)
    wide = grow(masked, {"conv": 8}, scores(masked))
    assert prunable_sizes(wide) == {"conv": 6}


def test_channels_that_are_sliced_and_taken_are_copied():
    with floatx("float64"):
        inputs = keras.Input((4, 6))
        x = keras.layers.Dense(8, activation="relu", name="a")(inputs)
        parts = [x[..., :4], x[..., 7:3:-1], keras.ops.take(x, [6, 0], axis=-1)]
        heads = [keras.layers.Dense(3)(part) for part in parts]
        model = keras.Model(inputs, keras.layers.Add()(heads))
        masked = wrapped(model)
        sizes = prunable_sizes(masked)
        wide = grow(
            masked, {n: 2 * size for n, size in sizes.items()}, scores(masked)
        )
        assert sum(prunable_sizes(wide).values()) > sum(sizes.values())
        x = random_inputs(model)
        assert difference(outputs(model, x), outputs(wide, x)) <= 1e-10
