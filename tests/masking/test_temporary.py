"""Temporary masks equal masks set for good, and leave no trace."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import zoo
from fitting import small_net
from harness import random_masks

import kprune
from kprune.masking import TemporaryMasks


def values(model):
    return [
        np.array(keras.ops.convert_to_numpy(v))
        for wrapper in kprune.masking.filter_masks(model)
        for v in wrapper.non_trainable_variables
    ]


def layer_norm():
    """Its statistics need a mask on the tensor, beside those on weights."""
    x = inputs = keras.Input((6, 6, 2))
    x = keras.layers.Conv2D(4, 3, name="conv1")(x)
    x = keras.layers.LayerNormalization()(x)
    x = keras.layers.Conv2D(5, 3, name="conv2")(x)
    return keras.Model(inputs, keras.layers.Flatten()(x))


def two_axes_to_one():
    """Rows of the head belong to a token and to a channel."""
    x = inputs = keras.Input((5, 4))
    x = keras.layers.Dense(6, name="channels")(x)
    x = keras.layers.Permute((2, 1))(x)
    x = keras.layers.Dense(3, name="tokens")(x)
    return keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(x)))


BUILDS = [*zoo.CORE, layer_norm, two_axes_to_one]


@pytest.mark.parametrize("build", BUILDS)
def test_they_equal_masks_set_for_good_and_are_gone_afterwards(build):
    masked = kprune.wrap(build())
    graph = kprune.trace(masked)
    first, then = random_masks(graph, seed=1), random_masks(graph, seed=2)
    kprune.set_masks(masked, first, graph)
    before = values(masked)
    temporary = TemporaryMasks(masked, graph)
    for name, mask in then.items():
        kprune.set_masks(masked, {name: mask}, graph)
        expected = values(masked)
        kprune.set_masks(masked, first, graph)
        with temporary({name: mask}):
            for got, wanted in zip(values(masked), expected, strict=True):
                np.testing.assert_array_equal(got, wanted)
        for got, wanted in zip(values(masked), before, strict=True):
            np.testing.assert_array_equal(got, wanted)
    kprune.set_masks(masked, then, graph)
    expected = values(masked)
    kprune.set_masks(masked, first, graph)
    with temporary(then):
        for got, wanted in zip(values(masked), expected, strict=True):
            np.testing.assert_array_equal(got, wanted)


def test_an_interrupted_trial_leaves_no_trace():
    masked = kprune.wrap(small_net(8))
    before = values(masked)
    with pytest.raises(KeyboardInterrupt):
        with TemporaryMasks(masked)({"conv3": [0] * 4 + [1] * 4}):
            raise KeyboardInterrupt
    for got, wanted in zip(values(masked), before, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_factors_and_masks_of_other_groups_on_the_axis_stay():
    masked = kprune.wrap(zoo.dense_block())
    layers = {w.name: w for w in kprune.masking.filter_masks(masked)}
    layers["stem"].factor = [0.5] * 6
    grow = layers["grow2"]
    place = (grow.layer.kernel, 2)
    kept = np.array([1] * 10 + [0] + [1] * 3)
    grow.set_axis_mask(*place, kept)  # by hand, in this layer alone
    with TemporaryMasks(masked)({"stem": [0, 1, 1, 1, 1, 1]}):
        mask = grow.axis_mask(*place)
        assert mask.sum() == 12 and (mask[1:] == kept[1:]).all()
        assert layers["stem"].factor.tolist() == [0.5] * 6
    np.testing.assert_array_equal(grow.axis_mask(*place), kept)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"head": [1, 1, 1]}, "cannot be pruned"),
        ({"conv3": [1, 0]}, r"must have shape \(8,\)"),
        ({"conv3": [0] * 8}, "removes all 8 channels"),
    ],
)
def test_bad_masks_are_refused(given, message):
    masked = kprune.wrap(small_net(8))
    with pytest.raises(ValueError, match=message):
        with TemporaryMasks(masked)(given):
            pass
