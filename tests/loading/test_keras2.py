"""Old files by hand: what Keras 2 wrote, against NumPy."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from loading.keras2 import layer
from loading.keras2 import sequential
from loading.keras2 import write

import kprune

DENSE = layer("Dense", "a/b", units=3, batch_input_shape=[None, 4])


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    shapes = [(4, 3), (3,)]
    return [rng.normal(size=shape).astype("float32") for shape in shapes]


@pytest.fixture
def x():
    return np.random.default_rng(1).normal(size=(5, 4)).astype("float32")


def training(optimizer, loss="mse"):
    return {
        "optimizer_config": optimizer,
        "loss": loss,
        "metrics": ["mae"],
        "loss_weights": None,
    }


def test_slashes_in_names_and_the_shape_at_the_first_layer(tmp_path, arrays, x):
    config = sequential(DENSE, layer("ThresholdedReLU", "t", theta=0.5))
    write(tmp_path / "m.h5", config, {"a/b": arrays, "t": []})
    model = kprune.load(tmp_path / "m.h5")
    assert model.input_shape == (None, 4)
    assert [layer.name for layer in model.layers] == ["a_b", "t"]
    y = x @ arrays[0] + arrays[1]
    np.testing.assert_allclose(model(x), np.where(y > 0.5, y, 0), rtol=1e-5)


def test_two_names_that_differ_by_a_slash_stay_two(tmp_path):
    config = sequential(
        layer("ReLU", "a_b", batch_input_shape=[None, 4]),
        layer("ReLU", "a/b"),
    )
    write(tmp_path / "m.h5", config, {})
    names = [layer.name for layer in kprune.load(tmp_path / "m.h5").layers]
    assert names == ["a_b", "a_b_1"]


def test_lr_and_decay_of_an_optimizer(tmp_path, arrays):
    old = {"class_name": "SGD", "config": {"lr": 0.5, "decay": 0.25}}
    path = tmp_path / "m.h5"
    write(
        path,
        sequential(DENSE),
        {"a/b": arrays},
        training_config=training(old),
    )
    with pytest.warns(UserWarning, match="state of the Keras 2 optimizer"):
        model = kprune.load(path)
    rate = model.optimizer._learning_rate
    assert [float(rate(step)) for step in (0, 4)] == [0.5, 0.25]
    assert not kprune.load(path, compile=False).compiled


def test_a_loss_that_is_gone_leaves_the_network(tmp_path, arrays, x):
    path = tmp_path / "m.h5"
    write(
        path,
        sequential(DENSE),
        {"a/b": arrays},
        training_config=training("sgd", "mine"),
    )
    with pytest.warns(UserWarning, match="mine.*Compile the model yourself"):
        model = kprune.load(path)
    assert not model.compiled
    np.testing.assert_allclose(model(x), x @ arrays[0] + arrays[1], rtol=1e-5)

    def mine(true, predicted):
        return keras.ops.mean(predicted, axis=-1)

    with pytest.warns(UserWarning, match="not restored"):
        model = kprune.load(path, custom_objects={"mine": mine})
    assert model.loss is mine


def test_a_gru_from_before_reset_after(tmp_path):
    gru = layer("GRU", "g", units=2, batch_input_shape=[None, 3, 4])
    shapes = [(4, 6), (2, 6), (6,)]
    zeros = [np.zeros(shape, "float32") for shape in shapes]
    write(tmp_path / "m.h5", sequential(gru), {"g": zeros})
    model = kprune.load(tmp_path / "m.h5")
    assert model.layers[0].reset_after is False


def test_hard_sigmoid_is_another_function_now(tmp_path, arrays, x):
    dense = layer(
        "Dense",
        "d",
        units=3,
        activation="hard_sigmoid",
        batch_input_shape=[None, 4],
    )
    path = tmp_path / "m.h5"
    write(path, sequential(dense), {"d": arrays})
    with pytest.raises(ValueError, match=r"'d'.*hard_sigmoid.*custom_objects"):
        kprune.load(path)

    def old(x):
        return keras.ops.clip(0.2 * x + 0.5, 0, 1)

    model = kprune.load(path, custom_objects={"hard_sigmoid": old})
    y = np.clip(0.2 * (x @ arrays[0] + arrays[1]) + 0.5, 0, 1)
    np.testing.assert_allclose(model(x), y, rtol=1e-5)


def test_layers_that_are_gone_are_named(tmp_path):
    config = sequential(layer("CuDNNLSTM", "old", units=2))
    path = tmp_path / "m.h5"
    write(path, config, {})
    with pytest.raises(ValueError, match=r"m.h5.*'CuDNNLSTM'.*'old'"):
        kprune.load(path)


def test_arguments_that_say_something_are_not_dropped(tmp_path):
    lstm = layer("LSTM", "l", units=2, time_major=True)
    lstm["config"]["batch_input_shape"] = [None, 3, 4]
    path = tmp_path / "m.h5"
    write(path, sequential(lstm), {})
    with pytest.raises(ValueError, match="time_major"):
        kprune.load(path)


@pytest.mark.parametrize("version", ["1.2.0", "2.0.6"])
def test_other_layouts_of_weights_are_refused(tmp_path, arrays, version):
    import h5py

    path = tmp_path / "m.h5"
    write(path, sequential(DENSE), {"a/b": arrays}, version)
    if version != "1.2.0":
        with h5py.File(path, "r+") as file:
            file["model_weights"].attrs["backend"] = b"theano"
    with pytest.raises(ValueError, match=f"Keras {version}.*Keras 2.2"):
        kprune.load(path)
