"""Latency: what is measured, and that comparisons are right."""

from __future__ import annotations

import time

import keras
import numpy as np
import pytest
from export import zoo

import kprune
from kprune.export import Latency
from kprune.export import compare
from kprune.export.benchmark import latency
from kprune.export.benchmark import time_runs
from kprune.export.runtime import open_runtime


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A small and a much larger model in both formats."""
    keras.utils.set_random_seed(0)
    folder = tmp_path_factory.mktemp("files")
    large = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Conv2D(64, 3, activation="relu"),
            keras.layers.Conv2D(64, 3, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
        ]
    )
    for name, model in (("small", zoo.conv_net()), ("large", large)):
        for suffix in (".tflite", ".onnx"):
            kprune.export(model, folder / f"{name}{suffix}", samples=2)
    return folder


def test_percentiles_are_milliseconds():
    found = latency(np.arange(1, 102), threads=2, runtime="LiteRT")
    assert (found.p10, found.median, found.p90) == (11, 51, 91)
    assert found.runs == 101
    assert "51 ms" in str(found) and "2 threads" in str(found)


def test_timer_measures_what_it_calls():
    times = time_runs(lambda: time.sleep(0.005), runs=4, seconds=0)
    assert len(times) == 4
    assert 5 <= np.median(times) < 50


@pytest.mark.parametrize(
    ("suffix", "runtime"), [(".tflite", "LiteRT"), (".onnx", "ONNX Runtime")]
)
def test_files(files, suffix, runtime):
    found = kprune.benchmark(files / f"small{suffix}", threads=2, seconds=0.02)
    assert isinstance(found, Latency)
    assert found.runtime == runtime and found.threads == 2
    assert found.runs >= 50
    assert 0 < found.p10 <= found.median <= found.p90


@pytest.mark.parametrize("saved", [False, True])
def test_keras_model_is_converted(tmp_path, saved):
    model = zoo.conv_net()
    model.save(tmp_path / "model.keras")
    source = tmp_path / "model.keras" if saved else model
    found = kprune.benchmark(source, seconds=0.01, runs=5)
    assert found.runtime == "LiteRT" and found.median < 100


def test_threads_reach_the_runtime(files, monkeypatch):
    import onnxruntime
    from ai_edge_litert import interpreter

    seen = {}

    class Interpreter(interpreter.Interpreter):
        def __init__(self, *args, **kwargs):
            seen["litert"] = kwargs["num_threads"]
            super().__init__(*args, **kwargs)

    session = onnxruntime.InferenceSession

    def spy(path, options, **kwargs):
        seen["onnx"] = options.intra_op_num_threads
        return session(path, options, **kwargs)

    monkeypatch.setattr(interpreter, "Interpreter", Interpreter)
    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    open_runtime(files / "small.tflite", 3)
    open_runtime(files / "small.onnx", 2)
    assert seen == {"litert": 3, "onnx": 2}


@pytest.mark.parametrize("suffix", [".tflite", ".onnx"])
def test_comparison_finds_the_faster_model(files, suffix):
    found = compare(
        [files / f"large{suffix}", files / f"small{suffix}"],
        rounds=6,
        seconds=0.1,
    )
    assert found.ratios[0].value == 1
    assert found.ratios[1].low <= found.ratios[1].value <= found.ratios[1].high
    assert found.ratios[1].verdict == "faster"
    lines = str(found).splitlines()
    assert len(lines) == 2 and "faster" in lines[1]


def test_comparison_cancels_a_disturbance_that_hits_both(files, monkeypatch):
    """Both slow down threefold half-way; the ratio stays what it was."""
    from kprune.export import runtime

    calls = {"n": 0}

    def invoke(self):
        calls["n"] += 1
        slow = 3 if calls["n"] > 120 else 1
        time.sleep(slow * (0.001 if "small" in self.path else 0.002))

    start = runtime.LiteRT.__init__

    def init(self, path, threads=1):
        self.path = str(path)
        start(self, path, threads)

    monkeypatch.setattr(runtime.LiteRT, "__init__", init)
    monkeypatch.setattr(runtime.LiteRT, "invoke", invoke)
    found = compare(
        [files / "large.tflite", files / "small.tflite"], rounds=20, seconds=0
    )
    assert found.ratios[1].high < 0.75
    assert 0.45 < found.ratios[1].value < 0.65


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threads": 0}, "threads"),
        ({"runs": 0}, "runs"),
        ({"seconds": -1}, "seconds"),
        ({"inputs": {"x": np.zeros(3)}}, "inputs are"),
    ],
)
def test_wrong_arguments_are_named(files, arguments, message):
    with pytest.raises(ValueError, match=message):
        kprune.benchmark(files / "small.tflite", **arguments)


def test_wrong_paths_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.tflite"):
        kprune.benchmark(tmp_path / "none.tflite")
    with pytest.raises(ValueError, match=r"No runtime for .*\.h5"):
        kprune.benchmark(tmp_path / "model.h5")
    with pytest.raises(TypeError, match="Expected a path"):
        kprune.benchmark(3)
    (tmp_path / "broken.tflite").write_bytes(b"no flatbuffer")
    with pytest.raises(ValueError, match="not a TensorFlow Lite model"):
        kprune.benchmark(tmp_path / "broken.tflite")


def test_comparison_needs_two(files):
    with pytest.raises(ValueError, match="two or more"):
        compare([files / "small.tflite"])
    with pytest.raises(ValueError, match="two or more"):
        compare(str(files / "small.tflite"))
    with pytest.raises(ValueError, match="rounds"):
        compare([files / "small.tflite"] * 2, rounds=2)


def test_integer_inputs_and_unknown_axes(tmp_path):
    kprune.export(zoo.recurrent(), tmp_path / "ids.tflite", samples=2)
    assert kprune.benchmark(tmp_path / "ids.tflite", seconds=0).median > 0
    model = keras.Sequential(
        [keras.Input((None, None, 3), name="image"), keras.layers.Conv2D(2, 3)]
    )
    path = tmp_path / "open.tflite"
    kprune.export(model, path, samples=2)
    with pytest.raises(ValueError, match="passing inputs="):
        kprune.benchmark(path)
    given = {"image": np.zeros((1, 20, 20, 3), "float32")}
    assert kprune.benchmark(path, inputs=given, seconds=0).runs == 50
