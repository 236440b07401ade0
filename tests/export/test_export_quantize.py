"""Quantised LiteRT files."""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from export import zoo
from export.zoo import tensor_types

import kprune
from kprune.export.unrolling import warn_of_growth


@pytest.fixture(scope="module")
def wide():
    """Large enough that weights dominate the file."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(64, 3, activation="relu"),
            keras.layers.Conv2D(64, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(5, activation="softmax"),
        ]
    )


@pytest.mark.slow
def test_sizes_shrink_as_promised(wide, tmp_path):
    plain = kprune.export(wide, tmp_path / "f.tflite").size
    half = kprune.export(wide, tmp_path / "h.tflite", quantize="float16")
    dynamic = kprune.export(wide, tmp_path / "d.tflite", quantize="dynamic")
    full = kprune.export(
        wide, tmp_path / "i.tflite", quantize="int8", calibration=zoo.images(40)
    )
    assert half.size < 0.55 * plain
    assert dynamic.size < 0.32 * plain
    assert full.size < 0.32 * plain
    assert half.max_rel < 5e-3 and half.tolerance == 5e-2
    assert 0 < dynamic.max_rel < 0.05 and dynamic.tolerance == 1
    assert 0 < full.max_rel < 0.05 and full.tolerance == 1
    assert full.top1 >= 0.9 and full.data == "calibration data"


@pytest.mark.parametrize("io_dtype", ["float32", "int8"])
def test_int8_is_integer_throughout(wide, tmp_path, io_dtype):
    path = tmp_path / "model.tflite"
    report = kprune.export(
        wide,
        path,
        quantize="int8",
        calibration=zoo.images(40),
        io_dtype=io_dtype,
    )
    dtypes, io = tensor_types(path)
    assert io == (np.dtype(io_dtype).type,) * 2
    floats = [d for d in dtypes if np.issubdtype(d, np.floating)]
    assert len(floats) == (2 if io_dtype == "float32" else 0)
    assert report.max_rel < 0.05


def test_int8_inputs_and_outputs_stand_for_the_same_numbers(wide, tmp_path):
    """Scaled by hand, the int8 file gives what the one with floats gives."""
    calibration = zoo.images(40)
    for io_dtype in ("float32", "int8"):
        kprune.export(
            wide,
            tmp_path / f"{io_dtype}.tflite",
            quantize="int8",
            calibration=calibration,
            io_dtype=io_dtype,
        )
    x = zoo.images(1, seed=7)
    integer = Interpreter(model_path=str(tmp_path / "int8.tflite"))
    integer.allocate_tensors()
    source = integer.get_input_details()[0]
    target = integer.get_output_details()[0]
    assert source["dtype"] == target["dtype"] == np.int8
    scale, zero = source["quantization"]
    levels = np.clip(np.round(x / scale) + zero, -128, 127).astype("int8")
    integer.set_tensor(source["index"], levels)
    integer.invoke()
    scale, zero = target["quantization"]
    got = integer.get_tensor(target["index"]).astype("float32")
    floats = Interpreter(model_path=str(tmp_path / "float32.tflite"))
    expected = floats.get_signature_runner()(
        **{next(iter(floats.get_signature_runner().get_input_details())): x}
    )
    (expected,) = expected.values()
    # One step of the output's scale, for rounding halves the other way.
    np.testing.assert_allclose(
        (got - zero) * scale, expected, atol=1.01 * scale
    )
    np.testing.assert_allclose(expected, wide(x), atol=0.05)


class _Batches(keras.utils.PyDataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return zoo.images(40)[10 * index : 10 * index + 10], np.zeros(10)


@pytest.mark.parametrize(
    "data",
    [
        lambda: tf.data.Dataset.from_tensor_slices(zoo.images(40)).batch(7),
        _Batches,
    ],
    ids=["tf.data", "PyDataset"],
)
def test_calibration_data_of_any_kind_give_the_same_file(tmp_path, data):
    model = zoo.conv_net()
    first, second = tmp_path / "array.tflite", tmp_path / "other.tflite"
    kprune.export(model, first, "int8", zoo.images(40))
    kprune.export(model, second, "int8", data())
    assert first.read_bytes() == second.read_bytes()


def test_ranges_come_from_the_calibration_data(tmp_path):
    model, scales = zoo.conv_net(), []
    for factor in (1, 10):
        path = tmp_path / f"{factor}.tflite"
        x = factor * zoo.images(40)
        kprune.export(model, path, "int8", x, io_dtype="int8")
        (detail,) = Interpreter(model_path=str(path)).get_input_details()
        scales.append(detail["quantization"][0])
        low, high = min(x.min(), 0), max(x.max(), 0)
        assert scales[-1] == pytest.approx((high - low) / 255, rel=0.02)
    assert scales[1] == pytest.approx(10 * scales[0], rel=1e-3)


def test_int8_needs_calibration(tmp_path):
    with pytest.raises(ValueError, match=r"calibration=x_train\[:256\]"):
        kprune.export(zoo.conv_net(), tmp_path / "m.tflite", quantize="int8")
    assert list(tmp_path.iterdir()) == []


def test_few_calibration_samples_are_logged(tmp_path, caplog):
    kprune.export(
        zoo.conv_net(),
        tmp_path / "m.tflite",
        quantize="int8",
        calibration=zoo.images(3),
    )
    assert "only 3 samples" in caplog.text


@pytest.mark.parametrize("layer", ["SimpleRNN", "LSTM", "GRU"])
def test_int8_recurrent_layers_are_unrolled(tmp_path, layer):
    model = keras.Sequential(
        [
            keras.Input((4, 3)),
            getattr(keras.layers, layer)(5, name="cell"),
            keras.layers.Dense(3),
        ]
    )
    x = np.random.default_rng(0).standard_normal((32, 4, 3)).astype("float32")
    path = tmp_path / "m.tflite"
    report = kprune.export(model, path, quantize="int8", calibration=x)
    assert "unrolled" in str(report)
    assert "WHILE" not in report.operators
    assert report.max_rel < 0.15
    assert model.get_layer("cell").unroll is False


def test_int8_of_unknown_sequence_length_is_an_error_not_a_crash(tmp_path):
    model = keras.Sequential([keras.Input((None, 3)), keras.layers.LSTM(5)])
    x = np.zeros((32, 4, 3), "float32")
    with pytest.raises(ValueError, match="cannot calibrate"):
        kprune.export(
            model, tmp_path / "m.tflite", quantize="int8", calibration=x
        )
    assert list(tmp_path.iterdir()) == []


def test_large_quantisation_error_is_logged(tmp_path, caplog):
    # Probabilities near 1/1000 vanish in an int8 output with steps of 1/256.
    inputs = keras.Input((4,))
    outputs = keras.layers.Dense(1000, activation="softmax")(0.1 * inputs)
    x = np.random.default_rng(0).standard_normal((30, 4)).astype("float32")
    report = kprune.export(
        keras.Model(inputs, outputs),
        tmp_path / "m.tflite",
        quantize="int8",
        calibration=x,
    )
    assert report.max_rel > 0.2
    assert "check its accuracy" in caplog.text


def test_a_layer_with_an_initial_state_is_announced(caplog):
    inputs = keras.Input((90, 8))
    _, *state = keras.layers.LSTM(4, return_state=True)(inputs)
    x = keras.layers.LSTM(4, name="second")(inputs, initial_state=state)
    warn_of_growth(keras.Model(inputs, x))
    assert "second (90 steps)" in caplog.text


@pytest.mark.parametrize(
    ("layer", "steps", "grows"),
    [("LSTM", 48, True), ("GRU", 48, True), ("LSTM", 2, False)],
)
def test_an_int8_file_that_grows_is_announced(
    tmp_path, caplog, layer, steps, grows
):
    """What is said before is held against the files, within a third."""
    units = 16 if grows else 48
    model = keras.Sequential(
        [keras.Input((steps, 8)), getattr(keras.layers, layer)(units)]
    )
    x = np.random.default_rng(0).standard_normal((60, steps, 8))
    report = kprune.export(
        model, tmp_path / "m.tflite", "int8", x.astype("float32")
    )
    if not grows:
        assert "unrolls" not in caplog.text
        assert report.size < 4 * model.count_params()
        return
    said = re.search(r"file of about ([\d.]+) kB", caplog.text)
    assert float(said[1]) * 1000 == pytest.approx(report.size, rel=0.33)
    assert "'dynamic'" in caplog.text and "'float16'" in caplog.text
    small = kprune.export(model, tmp_path / "m.tflite", "dynamic")
    assert report.size > 5 * small.size


def test_inputs_that_stay_as_they_are_are_told(tmp_path):
    inputs = keras.Input((4, 4, 3), dtype="uint8", name="image")
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Dense(2)(keras.layers.Flatten()(x))
    path = tmp_path / "m.tflite"
    notes = kprune.export(
        keras.Model(inputs, x),
        path,
        quantize="int8",
        calibration=np.random.default_rng(0).integers(0, 256, (60, 4, 4, 3)),
        io_dtype="int8",
    ).notes
    assert any(note.endswith("not 'image' (uint8)") for note in notes)
    runner = Interpreter(model_path=str(path)).get_signature_runner()
    assert runner.get_input_details()["image"]["dtype"] is np.uint8
    (target,) = runner.get_output_details().values()
    assert target["dtype"] is np.int8
