"""Latency: what is measured, and that comparisons are right."""

from __future__ import annotations

import sys
from unittest import mock

import keras
import numpy as np
import pytest
from export import zoo

import kprune
from kprune.export import Latency
from kprune.export import compare
from kprune.export import trial
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
    now = [100.0]

    def action():
        now[0] += 0.005

    times = time_runs(action, 4, 0, clock=lambda: now[0])
    np.testing.assert_allclose(times, [5.0] * 4)
    longer = time_runs(action, 4, 0.1, clock=lambda: now[0])
    assert 20 <= len(longer) <= 21


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
def test_comparison_of_files(files, suffix):
    found = compare(
        [files / f"large{suffix}", files / f"small{suffix}"],
        threads=2,
        rounds=6,
        seconds=0.01,
        precision=1e-6,
        time_limit=0.05,
    )
    assert found.rounds >= 6
    first, second = found.ratios
    assert (first.low, first.value, first.high) == (1, 1, 1)
    assert 0 < second.low <= second.value <= second.high
    for time in found.latencies:
        assert 0 < time.low <= time.high and time.threads == 2
        assert time.runs >= 3 * found.rounds
    lines = str(found).splitlines()
    assert len(lines) == 3 and found.verdicts == (lines[2],)
    assert f"small{suffix}" in lines[2] and str(files) not in lines[2]


def test_comparison_mixes_models_and_files(files):
    model = zoo.conv_net("network")
    found = compare(
        [model, files / "small.onnx"], rounds=6, seconds=0, time_limit=0
    )
    assert found.names[0] == "network"
    assert [t.runtime for t in found.latencies] == ["LiteRT", "ONNX Runtime"]
    assert found.rounds == 6


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
    (tmp_path / "model.h5").touch()
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
        compare([files / "small.tflite"] * 2, rounds=5)
    with pytest.raises(ValueError, match="precision"):
        compare([files / "small.tflite"] * 2, precision=0)


@pytest.mark.slow
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


def test_a_file_that_would_end_the_process_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "m.tflite"
    kprune.export(zoo.conv_net(), path)
    trial.check_survives(path)
    # On Windows the exit code of a crash is positive.
    for crash in ("os.abort()", "os._exit(3)"):
        monkeypatch.setattr(trial, "_RUN_ONCE", f"import os; {crash}")
        with pytest.raises(
            ValueError, match=r"m\.tflite' is damaged: running it crashes"
        ):
            kprune.benchmark(path)
    monkeypatch.setattr(trial, "_RUN_ONCE", "import time; time.sleep(60)")
    monkeypatch.setattr(trial, "SECONDS", 0.2)
    with pytest.raises(ValueError, match=r"running it takes more than 0\.2 s"):
        kprune.benchmark(path)


@pytest.mark.parametrize("suffix", [".tflite", ".onnx"])
def test_what_a_runtime_says_is_one_line_with_the_name(suffix, tmp_path):
    path = tmp_path / f"m{suffix}"
    kprune.export(zoo.conv_net(), path)
    runtime = open_runtime(path)
    (spec,) = runtime.inputs
    wrong = np.zeros((1, *(n + 1 for n in spec.shape[1:])), "float32")
    with pytest.raises(
        ValueError, match=rf"cannot run '.*m\{suffix}'"
    ) as error:
        runtime.run({spec.name: wrong})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["missing.keras", "missing", "missing.onnx"])
def test_a_file_that_is_not_there_is_named(name, tmp_path):
    (tmp_path / f"{name}2").touch()
    message = rf"no file '.*{name}'\. Did you mean '{name}2'"
    with pytest.raises(FileNotFoundError, match=message):
        kprune.benchmark(tmp_path / name)


def test_a_trial_without_litert_uses_tensorflow(monkeypatch, capsys):
    made = mock.Mock()
    made.lite.Interpreter.return_value.get_input_details.return_value = []
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    monkeypatch.setitem(sys.modules, "tensorflow", made)
    monkeypatch.setattr(sys, "argv", ["-c", "m.tflite"])
    exec(trial._RUN_ONCE, {})
    made.lite.Interpreter.assert_called_once_with(model_path="m.tflite")
    made.lite.Interpreter.return_value.invoke.assert_called_once_with()
    assert "survived" in capsys.readouterr().out


def test_a_file_is_not_run_at_another_input_size(tmp_path):
    path = tmp_path / "any.tflite"
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(2, 3)(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    kprune.export(keras.Model(inputs, x), path)
    (spec,) = open_runtime(path).inputs
    for shape in ((1, 12, 12, 3), (1, 8, 3), (12, 12, 3)):
        x = {spec.name: np.zeros(shape, "float32")}
        with pytest.raises(
            ValueError, match=r"shape \(samples, 8, 8, 3\).*Received: \(1"
        ):
            kprune.benchmark(path, runs=2, seconds=0, inputs=x)
    more = {spec.name: np.zeros((7, 8, 8, 3), "float32")}
    assert kprune.benchmark(path, runs=2, seconds=0, inputs=more).runs >= 2
