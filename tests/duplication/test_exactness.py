"""Duplicating changes what plain pruning changes, and nothing else."""

from __future__ import annotations

import fuzzing
import keras
import numpy as np
import pytest
import zoo
from harness import difference
from harness import floatx
from harness import outputs
from harness import random_inputs
from harness import randomise
from hypothesis import HealthCheck
from hypothesis import given
from hypothesis import settings
from keras import layers
from keras import ops

import kprune
from kprune.rebuild.copies import CopyMap
from kprune.rebuild.equivalence import inexact

HALF = {"macs": 0.5}


def pair(model, **kwargs):
    """The model with copies, and the model pruned of the same filters."""
    kwargs = {"reduce": HALF, "allocation": "uniform", **kwargs}
    hard = {k: v for k, v in kwargs.items() if k != "copies"}
    return kprune.duplicate(model, **kwargs), kprune.prune(model, **hard)


def assert_equal_to_pruning(model, tolerance=1e-10, **kwargs):
    randomise(model)
    x = random_inputs(model)
    duplicated, pruned = pair(model, **kwargs)
    before = outputs(duplicated, x)
    assert difference(before, outputs(pruned, x)) <= tolerance
    small, reference = kprune.rebuild(duplicated), kprune.rebuild(pruned)
    assert difference(outputs(small, x), outputs(reference, x)) <= tolerance
    assert small.count_params() == reference.count_params()
    # Last: in training mode, statistics move.
    error = difference(outputs(duplicated, x, True), outputs(pruned, x, True))
    assert error <= tolerance, "training mode differs"
    return duplicated, small


@pytest.mark.parametrize("build", zoo.CORE)
def test_equal_to_pruning(build):
    """Residual adds, concatenation, depthwise, gates, flatten, nesting."""
    with floatx("float64"):
        duplicated, small = assert_equal_to_pruning(build())
        graph = kprune.trace(duplicated)
        assert all(v.all() for v in kprune.masks(duplicated).values()), (
            "nothing had to be masked here"
        )
        assert kprune.cost(small).macs <= 0.5 * kprune.cost(duplicated).macs
        assert graph.prunable


def test_equal_to_pruning_in_float32():
    assert_equal_to_pruning(zoo.projection_resnet(), 1e-5)


def two_consumers():
    inputs = keras.Input((5,))
    x = layers.Dense(6, activation="relu", name="wide")(inputs)
    y = layers.Dense(4, name="left")(x)
    z = layers.Dense(4, name="right")(x)
    return keras.Model(inputs, [y, z])


def test_weights_of_two_consumers_by_hand():
    with floatx("float64"):
        model = two_consumers()
        randomise(model)
        masked = kprune.duplicate(
            model, criterion=lambda group: np.array([5, 1, 4, 2, 3, 0]),
            allocation={"wide": 0.5},
            copies=kprune.duplication.Copies(donors="rank"),
        )  # fmt: skip
    # Kept: 0, 2, 4 (best first); replaced, best first: 3, 1, 5.
    donors = np.array([0, 2, 2, 0, 4, 4])
    wide, copied = model.get_layer("wide"), masked.get_layer("wide").layer
    np.testing.assert_array_equal(
        copied.get_weights()[0], wide.get_weights()[0][:, donors]
    )
    np.testing.assert_array_equal(
        copied.get_weights()[1], wide.get_weights()[1][donors]
    )
    for name in ("left", "right"):
        before = model.get_layer(name).get_weights()[0]
        after = masked.get_layer(name).layer.get_weights()[0]
        np.testing.assert_allclose(after, before[donors] / 2, rtol=1e-15)
    assert "wide" in kprune.trace(masked)


def test_positions_of_flatten_are_kept_apart():
    """Flatten -> Dense reads each channel at every position of the map."""
    with floatx("float64"):
        inputs = keras.Input((3, 3, 2))
        x = layers.Conv2D(4, 2, name="conv")(inputs)
        x = layers.Dense(3, name="head")(layers.Flatten()(x))
        model = keras.Model(inputs, x)
        masked = kprune.duplicate(
            model, criterion=lambda group: np.arange(4.0),
            allocation={"conv": 0.5},
            copies=kprune.duplication.Copies(donors="rank"),
        )  # fmt: skip
    before = model.get_layer("head").get_weights()[0].reshape(2, 2, 4, 3)
    after = masked.get_layer("head").layer.kernel
    after = ops.convert_to_numpy(after).reshape(2, 2, 4, 3)
    donors = [2, 3, 2, 3]
    np.testing.assert_allclose(after, before[:, :, donors] / 2, rtol=1e-15)


def recurrent():
    """The recurrent kernel reads its own filters."""
    inputs = keras.Input((4, 3))
    x = layers.GRU(6, return_sequences=True, name="gru")(inputs)
    x = layers.LSTM(5, name="lstm")(x)
    return keras.Model(inputs, layers.Dense(2)(x))


def heads():
    inputs = keras.Input((4, 6))
    x = layers.MultiHeadAttention(4, 3, name="attention")(inputs, inputs)
    return keras.Model(inputs, layers.Dense(2)(x[:, 0]))


def grouped():
    inputs = keras.Input((5, 5, 4))
    x = layers.Conv2D(8, 3, groups=2, activation="relu", name="two")(inputs)
    x = layers.Conv2D(8, 1, groups=4, name="four")(x)
    x = layers.Conv2D(6, 1, name="one")(x)
    x = layers.GlobalMaxPooling2D()(x)
    return keras.Model(inputs, layers.Dense(2)(x))


@pytest.mark.parametrize("build", [recurrent, grouped])
def test_layers_that_read_what_they_produce(build):
    with floatx("float64"):
        duplicated, _ = assert_equal_to_pruning(build())
        assert all(v.all() for v in kprune.masks(duplicated).values())


def half_copied(graph):
    maps = {}
    for group in graph.prunable:
        donors = np.arange(group.size)
        donors[: group.size // 2] = group.size - 1
        maps[group.name] = CopyMap(donors)
    return maps


def reasons(model):
    randomise(model)
    masked = kprune.wrap(model)
    graph = kprune.trace(masked)
    before = [np.array(ops.convert_to_numpy(w)) for w in masked.weights]
    found = inexact(masked, graph, half_copied(graph))
    for weight, value in zip(masked.weights, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(weight), value)
    return found


def across(function):
    inputs = keras.Input((6,))
    x = layers.Dense(8, name="wide")(inputs)
    x = layers.Dense(3, name="head")(function(x))
    return keras.Model(inputs, x)


CROSS_CHANNEL = {
    "layer normalisation": lambda x: layers.LayerNormalization()(x),
    "unit normalisation": lambda x: layers.UnitNormalization()(x),
    "constants": lambda x: x * np.linspace(1, 2, 8, dtype="float32"),
    "rescaling": lambda x: layers.Rescaling(list(range(8)))(x),
    "sum": lambda x: ops.concatenate([x, ops.sum(x, -1, keepdims=True)], -1),
}


@pytest.mark.parametrize("name", CROSS_CHANNEL)
def test_operations_across_channels_are_found(name):
    assert list(reasons(across(CROSS_CHANNEL[name]))) == ["wide"]


def test_what_is_exact_is_not_given_up():
    found = reasons(across(lambda x: layers.PReLU()(layers.ReLU()(x))))
    assert found == {}


def test_equal_constants_do_no_harm():
    assert reasons(across(lambda x: x * np.full(8, 2, "float32"))) == {}


def test_attention():
    """Heads are alike; keys meet queries without weights between them."""
    assert reasons(heads()) == {
        "attention:2": "MultiHeadAttention 'attention' does not treat copies alike"
    }


@keras.saving.register_keras_serializable("kprune_tests")
class Centred(layers.Layer):
    """Subtracts the mean of all channels, which its rule does not say."""

    def call(self, inputs):
        return inputs - ops.mean(inputs, axis=-1, keepdims=True)

    def compute_output_shape(self, input_shape):
        return input_shape


kprune.register_rule(Centred)(lambda call: call.input)


def test_a_rule_that_keeps_quiet_is_found_out():
    found = reasons(across(lambda x: Centred(name="centred")(x)))
    assert found == {"wide": "Centred 'centred' does not treat copies alike"}


def test_what_cannot_be_copied_is_removed(caplog):
    with floatx("float64"), caplog.at_level("INFO", logger="kprune"):
        model = across(CROSS_CHANNEL["layer normalisation"])
        duplicated, _ = assert_equal_to_pruning(model)
    assert kprune.masks(duplicated)["wide"].sum() == 4
    assert "computes across these channels" in caplog.text


def test_spectral_normalisation_differs_in_training_alone():
    inputs = keras.Input((4,))
    inner = layers.Dense(6, name="inner")
    x = layers.SpectralNormalization(inner, name="spectral")(inputs)
    model = keras.Model(inputs, layers.Dense(2)(x))
    assert list(reasons(model)) == ["spectral"]


def check(program, seed=0):
    """Copies of random filters against masks, on a random graph."""
    keras.utils.clear_session(free_memory=False)
    with floatx("float64"):
        model = fuzzing.build(program)
        if model is None or not model.weights:
            return
        randomise(model, seed)
        groups = kprune.trace(model).prunable
        x = random_inputs(model, batch=fuzzing.BATCH, seed=seed)
        finite = all(np.isfinite(v).all() for v in outputs(model, x))
        if not groups or not finite:
            return
        masks = fuzzing._masks(groups, seed)
        shares = {n: 1 - np.count_nonzero(v) / v.size for n, v in masks.items()}
        duplicated, pruned = pair(
            model, reduce=None, allocation=shares, copies=None,
            criterion=lambda group: masks[group.name]
            + np.arange(group.size) / 1e3,
        )  # fmt: skip
        small, reference = kprune.rebuild(duplicated), kprune.rebuild(pruned)
        expected = outputs(pruned, x)
        assert difference(outputs(duplicated, x), expected) <= 1e-10
        assert difference(outputs(small, x), expected) <= 1e-10
        assert small.count_params() == reference.count_params()
        error = difference(
            outputs(duplicated, x, True), outputs(pruned, x, True)
        )
        assert error <= 1e-10


@settings(
    max_examples=12,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(fuzzing.PROGRAMS)
def test_random_graphs(program):
    check(program)


@pytest.mark.slow
@settings(max_examples=1000, suppress_health_check=list(HealthCheck))
@given(fuzzing.PROGRAMS)
def test_many_random_graphs(program):
    check(program)
