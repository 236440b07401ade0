"""Models built for a fixed batch, state that stays, and names of tensors."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import kprune
from kprune.data.source import Source
from kprune.export.formats import check_writable
from kprune.export.runtime import open_runtime
from kprune.export.signature import ModelSignature

FORMATS = ["model.keras", "model", "model.onnx", "model.tflite"]


def fixed_batch():
    inputs = keras.Input(batch_shape=(8, 4))
    x = keras.ops.reshape(inputs, (8, 2, 2))
    return keras.Model(inputs, layers.Dense(2)(x))


@pytest.mark.parametrize("name", FORMATS)
def test_a_fixed_batch_is_kept(tmp_path, name):
    x = np.random.default_rng(0).random((21, 4), "float32")
    model = fixed_batch()
    report = kprune.export(model, tmp_path / name, calibration=x)
    assert report.samples == 21
    if name.endswith(("onnx", "tflite")):
        runtime = open_runtime(tmp_path / name)
        assert runtime.inputs[0].shape == (8, 4)
        ((_, found),) = runtime.run_batched({runtime.inputs[0].name: x}).items()
        expected = model.predict(x[:16], batch_size=8, verbose=0)
        np.testing.assert_allclose(found[:16], expected, atol=1e-5)
        assert len(found) == 21


def test_another_batch_is_refused_only_if_it_does_not_run(tmp_path):
    with pytest.raises(ValueError, match=r"batches of 8.*`batch_size=4`"):
        kprune.export(fixed_batch(), tmp_path / "m.tflite", batch_size=4)
    inputs = keras.Input(batch_shape=(8, 4))
    model = keras.Model(inputs, layers.Dense(2)(inputs))
    kprune.export(model, tmp_path / "m.tflite", batch_size=1)
    runtime = open_runtime(tmp_path / "m.tflite")
    assert runtime.inputs[0].shape == (1, 4)


def test_fewer_samples_than_a_fixed_batch_are_checked():
    source = Source(np.ones((3, 4), "float32"), model=fixed_batch())
    assert source.size == 3
    bad = np.ones((40, 4), "float32")
    bad[::2] = np.nan
    with pytest.raises(ValueError, match="holds nan in sample 0"):
        Source(bad, model=fixed_batch())


def stateful():
    inputs = keras.Input(batch_shape=(8, 5, 3))
    x = layers.LSTM(4, stateful=True, name="memory")(inputs)
    return keras.Model(inputs, x)


@pytest.mark.parametrize("name", FORMATS[1:])
def test_stateful_layers_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"Layer 'memory'.*is stateful"):
        kprune.export(stateful(), tmp_path / name)
    with pytest.raises(ValueError, match=r"Layer 'memory'.*is stateful"):
        check_writable(tmp_path / name, stateful())


def test_a_keras_file_may_be_stateful(tmp_path):
    x = np.random.default_rng(0).random((16, 5, 3), "float32")
    model = stateful()
    model(x[:8])
    states = model.layers[1].states
    before = [keras.ops.convert_to_numpy(state).copy() for state in states]
    kprune.export(model, tmp_path / "model.keras", calibration=x)
    for state, value in zip(states, before, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(state), value)


def test_an_output_may_be_listed_twice(tmp_path):
    inputs = keras.Input((4,))
    y = layers.Dense(2)(inputs)
    model = keras.Model(inputs, {"b": y, "a": y, "c": layers.ReLU()(y)})
    signature = ModelSignature(model)
    assert [spec.name for spec in signature.outputs] == ["a", "b", "c"]
    kprune.export(model, tmp_path / "m.tflite")
    names = [s.name for s in open_runtime(tmp_path / "m.tflite").outputs]
    assert sorted(names) == ["a", "b", "c"]


@pytest.mark.parametrize("name", FORMATS[1:])
def test_names_that_tensorflow_refuses_are_named(tmp_path, name):
    inputs = keras.Input((4,), name="eingang")
    x = layers.Dense(2, name="zwei wörter")(inputs)
    model = keras.Model(inputs, x, name="maß")
    with pytest.raises(ValueError, match=r"model 'maß'.*name = \"ma_\"`"):
        kprune.export(model, tmp_path / name)
    model.name = "ma_"
    message = r"layer 'zwei wörter' of model 'ma_'.*name = \"zwei_w_rter\"`"
    with pytest.raises(ValueError, match=message):
        kprune.export(model, tmp_path / name)
    model.get_layer("zwei wörter").name = "zwei_w_rter"
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    kprune.export(copy, tmp_path / name)


def test_names_that_differ_in_case_only(tmp_path):
    inputs = [keras.Input((2,), name=name) for name in ("x", "X")]
    y = layers.Dense(2, name="d")(layers.Subtract()(inputs))
    model = keras.Model(inputs, y)
    kprune.export(model, tmp_path / "m.tflite")
    names = [s.name for s in open_runtime(tmp_path / "m.tflite").inputs]
    assert sorted(names) == ["X_1", "x"]
    with pytest.raises(
        ValueError, match=r"not accept 'x' and 'X' .*other names"
    ):
        kprune.export(model, tmp_path / "folder")
    others = [
        keras.Input(batch_shape=t.shape, dtype=t.dtype) for t in model.inputs
    ]
    kprune.export(keras.Model(others, model(others)), tmp_path / "folder")


@pytest.mark.parametrize("name", FORMATS[2:])
def test_inputs_may_have_any_name(tmp_path, name):
    inputs = keras.Input((4,), name="größe")
    model = keras.Model(inputs, layers.Dense(2, name="d")(inputs))
    x = np.ones((3, 4), "float32")
    kprune.export(model, tmp_path / name, calibration={"größe": x})
    assert open_runtime(tmp_path / name).inputs[0].name == "gr__e"
