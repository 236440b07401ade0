"""Wrong arguments, failing conversions, differences beyond tolerance."""

from __future__ import annotations

import math
import sys

import keras
import numpy as np
import pytest
from export import zoo

import kprune
from kprune.export import ExportReport
from kprune.export import VerificationError
from kprune.export.formats.tflite import TFLite
from kprune.export.quiet import quiet


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "m.pb",
            {},
            r"Unknown export format '\.pb'.*\.keras, \.onnx, \.tflite",
        ),
        ("m.tflite", {"quantize": "int2"}, "'int2'"),
        ("m.onnx", {"quantize": "int8"}, r"Quantised files are `\.tflite`"),
        ("m.keras", {"quantize": "float16"}, "takes quantize=None"),
        ("m.tflite", {"opset": 13}, "has no option 'opset'"),
        ("m.onnx", {"opsett": 13}, "Did you mean 'opset'"),
        ("m.onnx", {"opset": 99}, "from 9 to 18"),
        ("m.tflite", {"batch_size": 0}, "batch_size"),
        ("m.tflite", {"batch_size": True}, "batch_size"),
        ("m.tflite", {"io_dtype": "int4"}, "'float32' or 'int8'"),
        ("m.tflite", {"io_dtype": "int8"}, "needs quantize='int8'"),
        ("m.tflite", {"samples": 0}, "samples"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, name, arguments, message):
    with pytest.raises(ValueError, match=message):
        kprune.export(zoo.conv_net(), tmp_path / name, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        kprune.export(zoo.conv_net(), tmp_path / "nowhere" / "m.tflite")


def test_other_things_than_models(tmp_path):
    with pytest.raises(TypeError, match=r"export\(\) needs a keras\.Model"):
        kprune.export("model", tmp_path / "m.tflite")
    with pytest.raises(ValueError, match="no symbolic inputs"):
        kprune.export(
            keras.Sequential([keras.layers.Dense(2)]), tmp_path / "m.tflite"
        )


@pytest.mark.parametrize("suffix", [".tflite", ".onnx"])
def test_operators_outside_the_format_are_named(tmp_path, suffix):
    with pytest.raises(ValueError, match=r"(?i)erfinv"):
        kprune.export(zoo.outside_builtins(), tmp_path / f"m{suffix}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("quantize", [None, "dynamic", "int8"])
def test_float64_constants_are_named_with_the_way_out(tmp_path, quantize):
    model = zoo.float64_constant(np.linspace(0, 1, 4))
    calibration = np.ones((20, 8))
    with pytest.raises(ValueError, match="float64") as error:
        kprune.export(model, tmp_path / "m.tflite", quantize, calibration)
    message = str(error.value)
    for part in ("'multiply'", "'add'", '"float32"', "'.onnx'"):
        assert part in message
    assert "builtins" not in message
    assert list(tmp_path.iterdir()) == []


def test_the_ways_out_of_float64_work(tmp_path):
    constant = np.linspace(0, 1, 4)
    model = zoo.float64_constant(constant)
    kprune.export(model, tmp_path / "m.onnx")
    model = zoo.float64_constant(np.asarray(constant, "float32"))
    assert kprune.export(model, tmp_path / "m.tflite").max_rel < 1e-5


def test_float64_without_a_known_source_is_named_too(tmp_path):
    inputs = keras.Input((4,))
    x = keras.ops.cast(keras.ops.cast(inputs, "float64") * 2, "float32")
    with pytest.raises(ValueError, match="A constant or a cast in it"):
        kprune.export(keras.Model(inputs, x), tmp_path / "m.tflite")


def test_recurrent_layers_with_dynamic_batch_say_the_way_out(tmp_path):
    with pytest.raises(ValueError, match="batch_size=1"):
        kprune.export(zoo.recurrent(), tmp_path / "m.tflite", batch_size=None)


@pytest.mark.parametrize("name", ["m.tflite", "m.onnx", "folder"])
def test_other_backends_are_sent_to_tensorflow(tmp_path, monkeypatch, name):
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    with pytest.raises(
        RuntimeError, match="KERAS_BACKEND=tensorflow kprune exp"
    ):
        kprune.export(zoo.conv_net(), tmp_path / name)


def test_keras_file_needs_no_tensorflow_backend(tmp_path, monkeypatch):
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    assert kprune.export(zoo.conv_net(), tmp_path / "m.keras").max_abs == 0


class _Wrong(TFLite):
    """Runs correctly, but the file holds another model."""

    def write(self, job, path):
        super().write(job, path)
        model = job.signature.model
        weights = model.get_weights()
        model.set_weights([1.01 * w for w in weights])


@pytest.fixture
def wrong_converter(monkeypatch):
    from kprune.export.formats.base import registry

    monkeypatch.setitem(registry._own, "tflite", _Wrong)


def test_difference_beyond_tolerance_leaves_the_old_file(
    tmp_path, wrong_converter
):
    path = tmp_path / "m.tflite"
    path.write_bytes(b"old")
    with pytest.raises(VerificationError, match="Nothing was written") as error:
        kprune.export(zoo.conv_net(), path)
    assert error.value.difference.max_rel > 1e-3
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_int8_files_that_have_nothing_of_the_model_are_refused(
    tmp_path, monkeypatch
):
    from kprune.export.formats.base import registry

    class Reversed(TFLite):
        def write(self, job, path):
            super().write(job, path)
            model = job.signature.model
            model.set_weights([-w for w in model.get_weights()])

    monkeypatch.setitem(registry._own, "tflite", Reversed)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    x = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
    with pytest.raises(VerificationError, match="larger `tolerance`"):
        kprune.export(model, tmp_path / "m.tflite", "int8", x)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tolerance", [0.5, math.inf])
def test_difference_can_be_accepted(tmp_path, wrong_converter, tolerance):
    report = kprune.export(
        zoo.conv_net(), tmp_path / "m.tflite", tolerance=tolerance
    )
    assert report.max_rel > 1e-3
    assert (tmp_path / "m.tflite").stat().st_size == report.size


def test_tolerance_holds_for_quantised_files_too(tmp_path):
    with pytest.raises(VerificationError):
        kprune.export(
            zoo.conv_net(),
            tmp_path / "m.tflite",
            quantize="float16",
            tolerance=1e-9,
        )
    assert list(tmp_path.iterdir()) == []


def test_constant_outputs_are_noted(tmp_path):
    model = zoo.conv_net()
    scores = model.get_layer("scores")
    scores.set_weights([np.zeros_like(w) for w in scores.get_weights()])
    report = kprune.export(model, tmp_path / "m.tflite")
    assert "verifies little" in str(report)


def test_report_prints_what_was_measured(tmp_path):
    report = kprune.export(zoo.conv_net(), tmp_path / "m.tflite")
    assert isinstance(report, ExportReport)
    text = str(report)
    for part in (
        "m.tflite",
        "LiteRT",
        "CONV_2D x1",
        "64 samples of random inputs",
        "same top-1 class: 100.0%",
        "outside the standard set: none",
    ):
        assert part in text
    assert 0 < report.compressed_size < report.size


def test_nothing_is_printed(tmp_path, capfd):
    kprune.export(zoo.conv_net(), tmp_path / "m.tflite")
    kprune.export(zoo.conv_net(), tmp_path / "m.onnx")
    kprune.export(zoo.conv_net(), tmp_path / "folder")
    assert capfd.readouterr() == ("", "")


def test_sizes_that_are_not_known_are_named(tmp_path):
    x = inputs = keras.Input((None, None, 3), name="image")
    x = keras.layers.Conv2D(8, 3, padding="same")(x)
    x = keras.layers.UpSampling2D()(x)
    model = keras.Model(inputs, keras.layers.Conv2D(4, 1)(x))
    with pytest.raises(
        ValueError, match=r"'image' \(None, None, None, 3\).*Input"
    ):
        kprune.export(model, tmp_path / "m.tflite")
    assert not list(tmp_path.iterdir())


def test_a_process_without_standard_error_exports(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr(sys, "stdout", None)
    with quiet(stdout=True):
        pass
    kprune.export(zoo.conv_net(), tmp_path / "m.tflite", samples=2)
