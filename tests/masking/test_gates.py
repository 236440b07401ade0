"""Gates of channel groups: tied, differentiable, saved, and masks in the end."""

import itertools

import backends
import keras
import models
import numpy as np
import pytest
from fitting import arrays
from fitting import loss
from fitting import small_net
from harness import difference
from harness import outputs
from harness import randomise

import kprune
from kprune.graph.values import read
from kprune.masking import add_gates
from kprune.masking import close_gates
from kprune.masking import gates

X, _ = arrays(8)


@pytest.fixture(scope="module")
def made():
    model = small_net(8)
    randomise(model)
    masked = kprune.wrap(model)
    found = add_gates(masked, decoders=["conv1"])
    return masked, found, masked.get_weights()


@pytest.fixture
def gated(made):
    """A wrapped small net, one group of which is a residual stream."""
    masked, found, weights = made
    masked.set_weights(weights)
    for gate in found.values():
        gate.logits.assign([-1.0, 1.0] * 4)
    return masked, found


def seen(masked, found, training):
    """What each gate gave in one pass, by group: one array per reader."""
    values = {name: [] for name in found}
    for name, gate in found.items():
        gate.observer = values[name].append
    masked(X, training=training)
    for gate in found.values():
        gate.observer = None
    return {
        n: [np.array(read(v)) for v in given] for n, given in values.items()
    }


def test_all_readers_of_a_group_see_the_same_sample(gated):
    masked, found = gated
    assert list(found) == [g.name for g in kprune.trace(masked).prunable]
    samples = [seen(masked, found, training=True) for _ in range(3)]
    assert len(samples[0]["conv1"]) == 2  # conv2, and conv3 behind a depthwise
    for sample in samples:
        for first, *others in sample.values():
            assert set(np.unique(first)) <= {0.0, 1.0}
            for other in others:
                np.testing.assert_array_equal(first, other)
    assert any(
        (a["conv1"][0] != b["conv1"][0]).any()
        for a, b in itertools.pairwise(samples)
    )
    assert any(0 in sample["conv1"][0] for sample in samples)


@pytest.mark.parametrize("training", [False, True])
def test_a_channel_that_is_alive_stays_open(gated, training):
    """Not one that masks have removed, however large its logit."""
    masked, found = gated
    removed = np.arange(8) < 3
    try:
        kprune.set_masks(masked, {n: ~removed for n in found})
        for gate in found.values():
            gate.logits.assign(np.where(removed, 60.0, -30.0 - np.arange(8)))
        for values in seen(masked, found, training).values():
            for value in values:
                assert value[~removed].sum() == 1
    finally:
        kprune.set_masks(masked, {n: np.ones(8) for n in found})


def test_the_gradient_is_that_of_a_sigmoid_and_reaches_shut_gates():
    model = models.dense_layers([4], 3, 2)
    masked = kprune.wrap(model)
    (gate,) = add_gates(masked).values()
    logits = np.array([-1.5, 0.5, -0.2, 2.0], "float32")
    gate.logits.assign(logits)
    gate.temperature.assign(0.5)
    x = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    (found,) = backends.gradients(
        lambda: keras.ops.sum(masked(x)), [gate.logits]
    )
    (kernel, bias), (head, _) = (v.get_weights() for v in model.layers[1:])
    hidden = np.maximum(x @ kernel + bias, 0)
    soft = 1 / (1 + np.exp(-logits / 0.5))
    expected = hidden.sum(0) * head.sum(1) * soft * (1 - soft) / 0.5
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_gates_become_masks_and_the_rebuild_is_exact(gated):
    masked, found = gated
    with pytest.raises(ValueError, match="close_gates"):
        kprune.rebuild(masked)
    before = outputs(masked, X)
    vectors = close_gates(masked)
    assert vectors.keys() == found.keys()
    for vector in vectors.values():
        np.testing.assert_array_equal(vector, [0.0, 1.0] * 4)
    assert difference(before, outputs(masked, X)) <= 1e-6
    compact = kprune.rebuild(masked)
    assert difference(before, outputs(compact, X)) <= 1e-5
    assert kprune.trace(compact)["conv1"].size == 4
    assert not any("logits" in v.path for v in compact.variables)
    kernel = read(masked.get_layer("conv1").layer.kernel)
    assert (kernel[..., ::2] == 0).all() and (kernel[..., 1::2] != 0).any()


def test_trials_of_masks_see_open_gates(gated):
    masked, _ = gated
    masked.compile("sgd", loss(), jit_compile=False)
    session = kprune.Session(masked, arrays(16))
    trials = [{"conv1": np.arange(8) % 3 != n} for n in range(3)]
    each = [session.loss(trial) for trial in trials]
    assert session.losses(trials) == pytest.approx(each, rel=1e-5)
    close_gates(masked)
    static = kprune.Session(masked, arrays(16)).loss()
    assert session.loss() == pytest.approx(static, rel=1e-5)


def test_layers_are_not_copied_one_by_one(gated):
    masked, _ = gated
    with pytest.raises(ValueError, match="part the gates"):
        keras.models.clone_model(masked)


def test_costs_say_that_gates_are_open(gated):
    masked, found = gated
    cost = kprune.cost(masked)
    assert "close_gates" in cost.note and "close_gates" in str(cost)
    for gate in found.values():
        gate.acts = False
    assert not kprune.cost(masked).note


def test_a_group_keeps_its_best_channel(gated):
    masked, found = gated
    for gate in found.values():
        gate.logits.assign(-np.arange(1.0, 1.0 + gate.size))
    (value, _) = seen(masked, found, training=False)["conv1"]
    np.testing.assert_array_equal(value, [1.0] + [0.0] * 7)
    kprune.set_masks(masked, {"conv1": [0.0] + [1.0] * 7})
    np.testing.assert_array_equal(
        close_gates(masked)["conv1"], [0.0, 1.0] + [0.0] * 6
    )


def test_a_file_ties_what_was_tied(gated, tmp_path):
    masked, _ = gated
    masked(X, training=True)
    masked.save(tmp_path / "gated.keras")
    loaded = keras.saving.load_model(tmp_path / "gated.keras")
    again = gates(loaded)
    assert len(loaded.trainable_variables) == len(masked.trainable_variables)
    assert difference(outputs(masked, X), outputs(loaded, X)) <= 1e-6
    assert again["conv1"].decoder is not None
    for first, *others in seen(loaded, again, training=True).values():
        for other in others:
            np.testing.assert_array_equal(first, other)


def test_weight_decay_and_an_optimizer_on_its_way():
    model = models.dense_layers([4], 3)
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=0.5),
        "mse",
        run_eagerly=keras.config.backend() != "jax",
    )
    x, y = np.ones((2, 3, 3), "float32")[:, :2]
    model.train_on_batch(x, y)
    masked = kprune.wrap(model)
    slots = [np.array(read(v)) for v in masked.optimizer.variables]
    found = add_gates(masked)
    assert int(masked.optimizer.iterations) == 1
    new = [np.array(read(v)) for v in masked.optimizer.variables]
    for slot in slots:
        assert any(slot.shape == n.shape and (slot == n).all() for n in new)
    for gate in found.values():
        gate.acts = False  # no gradient either
    dense = masked.get_layer("d0").layer
    kernel = np.array(read(dense.kernel))
    masked.train_on_batch(x, y)
    for gate in found.values():
        np.testing.assert_array_equal(read(gate.logits), [2.0] * 4)
    assert (read(dense.kernel) != kernel).all()


def test_groups_on_which_a_layer_computes_across_channels_have_none():
    x = inputs = keras.Input((6,))
    x = keras.layers.Dense(4, name="stream")(x)
    x = keras.layers.LayerNormalization()(x)
    x = keras.layers.Dense(4, activation="relu", name="hidden")(x)
    masked = kprune.wrap(keras.Model(inputs, keras.layers.Dense(2)(x)))
    assert list(add_gates(masked)) == ["hidden"]
    with pytest.raises(ValueError, match="has gates already"):
        add_gates(masked)
