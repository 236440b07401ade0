"""rebuild() merges channels of equal weights."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from harness import assert_saves
from harness import difference
from harness import floatx
from harness import outputs
from harness import random_inputs
from harness import randomise
from harness import run_pruning_test
from keras import layers
from models import convolutions

import kprune


def net():
    names = ("conv", "next")
    return convolutions((6, 5), (6, 6, 3), 2, names, norms=1, bias=True)


PARTS = ("conv", "norm1")


def copied(model, source, target, noise=0.0):
    """Overwrites one channel of conv and norm by another, consumers not."""
    for name in PARTS:
        layer = model.get_layer(name)
        for weight in layer.weights:
            value = keras.ops.convert_to_numpy(weight).copy()
            value[..., target] = value[..., source] * (1 + noise)
            weight.assign(value)
    return model


def sizes(model):
    return {
        layer.name: layer.filters
        for layer in model.layers
        if "filters" in vars(layer)
    }


@pytest.fixture
def model():
    with floatx("float64"):
        model = net()
        randomise(model)
        yield model


def test_merged_by_hand(model):
    """V_c + V_u, everything of u gone, against NumPy."""
    copied(model, 1, 4)
    small = kprune.rebuild(kprune.wrap(model))
    assert sizes(small) == {"conv": 5, "next": 5}
    kernel = model.get_layer("next").get_weights()[0]
    expected = kernel[:, :, [0, 1, 2, 3, 5]].copy()
    expected[:, :, 1] += kernel[:, :, 4]
    np.testing.assert_array_equal(
        small.get_layer("next").get_weights()[0], expected
    )
    for name in PARTS:
        pairs = zip(
            small.get_layer(name).get_weights(),
            model.get_layer(name).get_weights(),
            strict=True,
        )
        for after, before in pairs:
            np.testing.assert_array_equal(after, before[..., [0, 1, 2, 3, 5]])


def test_merging_changes_no_output(model):
    masked = kprune.wrap(copied(copied(model, 0, 2), 0, 3))
    x = random_inputs(model)
    small = kprune.rebuild(masked)
    assert sizes(small)["conv"] == 4
    assert difference(outputs(masked, x), outputs(small, x)) <= 1e-12
    error = difference(outputs(masked, x, True), outputs(small, x, True))
    assert error <= 1e-12


def test_removed_channels_take_no_part(model):
    masked = kprune.wrap(copied(copied(model, 0, 2), 0, 3))
    kprune.set_masks(masked, {"conv": [0, 1, 1, 1, 1, 1]})
    x = random_inputs(model)
    small = kprune.rebuild(masked)
    assert sizes(small)["conv"] == 4
    assert difference(outputs(masked, x), outputs(small, x)) <= 1e-12


def test_nothing_to_merge_changes_nothing(model):
    masked = kprune.wrap(model)
    kprune.set_masks(masked, {"conv": [0, 1, 1, 0, 1, 1]})
    merged, plain = kprune.rebuild(masked), kprune.rebuild(masked, merge=None)
    for a, b in zip(merged.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_merging_can_be_switched_off(model):
    masked = kprune.wrap(copied(model, 1, 4))
    assert sizes(kprune.rebuild(masked, merge=None))["conv"] == 6


@pytest.mark.parametrize("part", PARTS)
def test_all_weights_must_agree(model, part):
    copied(model, 1, 4)
    layer = model.get_layer(part)
    value = layer.get_weights()
    value[-1][4] += 0.1
    layer.set_weights(value)
    assert sizes(kprune.rebuild(kprune.wrap(model)))["conv"] == 6


def test_drifted_copies_get_their_mean(model):
    copied(model, 1, 4, noise=1e-3)
    masked = kprune.wrap(model)
    assert sizes(kprune.rebuild(masked))["conv"] == 6
    small = kprune.rebuild(masked, merge=2e-3)
    assert sizes(small)["conv"] == 5
    kernel = model.get_layer("conv").get_weights()[0]
    np.testing.assert_allclose(
        small.get_layer("conv").get_weights()[0][..., 1],
        kernel[..., [1, 4]].mean(-1),
        rtol=1e-12,
    )
    x = random_inputs(model)
    assert difference(outputs(masked, x), outputs(small, x)) < 1e-2


def test_rounding_does_not_part_copies(model):
    copied(model, 1, 4, noise=1e-15)
    assert sizes(kprune.rebuild(kprune.wrap(model)))["conv"] == 5


def test_factors_count(model):
    """A copy that is attenuated is no copy."""
    masked = kprune.wrap(copied(model, 1, 4))
    kprune.set_masks(masked, {"conv": [1, 1, 1, 1, 0.5, 1]})
    x = random_inputs(model)
    small = kprune.rebuild(masked)
    assert sizes(small)["conv"] == 6
    assert difference(outputs(masked, x), outputs(small, x)) <= 1e-12


def test_dead_filters_are_not_copies(model):
    """A model with filters of zeros keeps its shape."""
    for name in PARTS:
        layer = model.get_layer(name)
        value = [np.array(w) for w in layer.get_weights()]
        for array in value:
            array[..., [0, 3]] = 0
        layer.set_weights(value)
    assert sizes(kprune.rebuild(kprune.wrap(model)))["conv"] == 6


def test_copies_are_found_after_loading(model, tmp_path):
    masked = kprune.duplicate(model, reduce={"macs": 0.4}, allocation="uniform")
    x = random_inputs(model)
    loaded = assert_saves(masked, x, tmp_path / "masked.keras")
    small, again = kprune.rebuild(masked), kprune.rebuild(loaded)
    assert sizes(again) == sizes(small) != sizes(model)
    assert difference(outputs(small, x), outputs(again, x)) <= 1e-12


def test_clones_across_channels_are_kept(caplog):
    """Layer normalisation counts every copy."""
    inputs = keras.Input((5,))
    x = layers.Dense(6, name="wide")(inputs)
    x = layers.LayerNormalization()(x)
    model = keras.Model(inputs, layers.Dense(2)(x))
    kernel, bias = model.get_layer("wide").get_weights()
    kernel[:, 1] = kernel[:, 0]
    model.get_layer("wide").set_weights([kernel, bias])
    masked = kprune.wrap(model)
    with caplog.at_level("INFO", logger="kprune"):
        small = kprune.rebuild(masked)
    assert small.get_layer("wide").units == 6
    assert "not merged" in caplog.text


def test_training_goes_on(model):
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    x, y = random_inputs(model), np.zeros((3, 2))
    model.train_on_batch(x, y)
    masked = kprune.duplicate(model, reduce={"macs": 0.4}, allocation="uniform")
    small = kprune.rebuild(masked)
    assert int(small.optimizer.iterations.value) == 1
    before = small.evaluate(x, y, verbose=0)
    small.train_on_batch(x, y)
    assert small.evaluate(x, y, verbose=0) != before


@pytest.mark.parametrize(("kind", "left"), [("float64", 6), ("float32", 5)])
def test_copies_may_differ_by_the_rounding_of_their_data_type(kind, left):
    with floatx(kind):
        model = net()
        randomise(model)
        copied(model, 1, 4, noise=5e-7)
        masked = kprune.wrap(model)
        compact = kprune.rebuild(masked)
        assert sizes(compact)["conv"] == left
        assert sizes(kprune.rebuild(masked, merge=1e-6))["conv"] == 5


@pytest.mark.parametrize("merge", [-1, "yes", float("nan")])
def test_bad_tolerance(model, merge):
    with pytest.raises(ValueError, match="0 or more"):
        kprune.rebuild(kprune.wrap(model), merge=merge)


def test_ordinary_life_is_as_before(tmp_path):
    run_pruning_test(net, tmp_path, expected={"conv": 6, "next": 5})
