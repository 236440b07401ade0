"""What a report knows: sizes before and after, plain data, readable text."""

from __future__ import annotations

import gzip
import json
import zlib

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from export import zoo

import kprune
from kprune.export.original import measure_original


@pytest.fixture
def masked():
    keras.utils.set_random_seed(0)
    model = zoo.conv_net()
    masked = kprune.wrap(model)
    name, mask = next(iter(kprune.masks(masked).items()))
    kprune.set_masks(masked, {name: np.arange(len(mask)) % 2})
    return masked


def test_a_masked_model_is_compared_with_itself_without_masks(masked, tmp_path):
    report = kprune.export(masked, tmp_path / "m.tflite")
    original = zoo.conv_net()
    assert report.size_before == 4 * original.count_params()
    assert report.original.basis == "weights of 'net' in float32"
    assert report.compression == report.size_before / report.size
    compact = kprune.rebuild(masked)
    alone = kprune.export(compact, tmp_path / "m.tflite")
    assert alone.size_before == 4 * compact.count_params()


def test_the_original_is_a_model_or_a_file(masked, tmp_path):
    original = zoo.conv_net()
    before = kprune.export(original, tmp_path / "before.tflite")
    compact = kprune.rebuild(masked)
    one = kprune.export(compact, tmp_path / "m.tflite", original=original)
    other = kprune.export(
        compact, tmp_path / "m.tflite", original=tmp_path / "before.tflite"
    )
    assert one.size_before == 4 * original.count_params()
    assert other.size_before == before.size
    assert other.original.basis == "before.tflite"
    assert other.compression > 1
    assert f"before: {before.size / 1000:.2f} kB (before.tflite)" in str(other)
    # Of a header, the array counts, and of an unknown file all of it.
    header = kprune.export(original, tmp_path / "before.h")
    assert measure_original(tmp_path / "before.h").size == header.size
    (tmp_path / "before.bin").write_bytes(bytes(70))
    assert measure_original(tmp_path / "before.bin").size == 70
    folder = kprune.export(original, tmp_path / "before")
    assert measure_original(tmp_path / "before").size == folder.size


def test_variables_that_wrappers_share_count_once(tmp_path):
    shared = keras.layers.Dense(8)
    inputs = keras.Input((8,))
    x = shared(keras.layers.ReLU()(shared(inputs)))
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    masked = kprune.wrap(
        keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Dense(8)(x)))
    )
    report = kprune.export(masked, tmp_path / "m.tflite")
    expected = 4 * (8 * 8 + 8 + 8 * 8 + 8 + 8 * 2 + 2)
    assert report.size_before == expected
    assert kprune.export(model, tmp_path / "m.tflite").size_before == 4 * 90


def test_wrong_originals_are_named(tmp_path):
    model = zoo.conv_net()
    with pytest.raises(FileNotFoundError, match=r"none\.tflite"):
        kprune.export(
            model, tmp_path / "m.tflite", original=tmp_path / "none.tflite"
        )
    with pytest.raises(TypeError, match="Expected `original`"):
        kprune.export(model, tmp_path / "m.tflite", original=390_000)
    assert list(tmp_path.iterdir()) == []


def test_compressed_size_is_what_deflate_makes_of_it(tmp_path):
    report = kprune.export(zoo.conv_net(), tmp_path / "m.tflite")
    content = (tmp_path / "m.tflite").read_bytes()
    assert report.compressed_size == len(zlib.compress(content))
    # gzip is DEFLATE with another header and footer.
    assert abs(report.compressed_size - len(gzip.compress(content))) < 64
    folder = kprune.export(zoo.conv_net(), tmp_path / "folder")
    files = [f for f in (tmp_path / "folder").rglob("*") if f.is_file()]
    assert folder.compressed_size == sum(
        len(zlib.compress(f.read_bytes())) for f in files
    )


@pytest.mark.parametrize("name", ["m.tflite", "m.onnx", "m.keras", "m.h", "m"])
def test_every_report_becomes_json(tmp_path, name):
    report = kprune.export(zoo.conv_net(), tmp_path / name, samples=3)
    plain = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert plain == report.to_dict()
    assert plain["path"] == str(tmp_path / name)
    assert plain["size"] == report.size
    assert plain["size_before"] == report.size_before
    assert plain["max_abs"] == report.max_abs
    assert plain["max_rel"] == report.max_rel < 1e-5
    assert plain["top1"] == 1.0 and plain["samples"] == 3
    assert (plain["arena"] is None) == (name != "m.h")


def test_an_infinite_difference_is_valid_json(tmp_path, monkeypatch):
    from kprune.export.formats.base import registry
    from kprune.export.formats.tflite import TFLite

    class Broken(TFLite):
        def run(self, job, path, samples):
            outputs = super().run(job, path, samples)
            return [np.full_like(output, np.nan) for output in outputs]

    monkeypatch.setitem(registry._own, "tflite", Broken)
    report = kprune.export(
        zoo.conv_net(), tmp_path / "m.tflite", tolerance=float("inf")
    )
    assert report.max_rel == np.inf
    plain = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert plain["max_rel"] is None


def test_top1_is_measured_on_the_calibration_data(tmp_path):
    model, x = zoo.conv_net(), zoo.images(40)
    path = tmp_path / "m.tflite"
    report = kprune.export(model, path, "int8", calibration=x, samples=40)
    assert report.data == "calibration data" and report.samples == 40
    got = [
        Interpreter(model_path=str(path)).get_signature_runner()(image=row)
        for row in x[:, None]
    ]
    classes = np.concatenate([each["scores"] for each in got]).argmax(-1)
    expected = model(x).numpy().argmax(-1)
    assert report.top1 == (classes == expected).mean()
