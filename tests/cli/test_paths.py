"""Paths are checked before anything is loaded."""

from __future__ import annotations

import os

import keras
import numpy as np
import pytest
from cli.running import assert_fails
from cli.running import run

from kprune.commands import bench
from kprune.commands import demo
from kprune.commands import export
from kprune.commands import inspect
from kprune.commands import latency
from kprune.commands import prune
from kprune.commands import sweep
from kprune.outputs import FOLDER
from kprune.registry import modules


@pytest.fixture
def no_keras(monkeypatch):
    def loads():
        raise AssertionError("Keras is loaded")

    for module in (bench, demo, export, inspect, latency, prune, sweep):
        monkeypatch.setattr(module, "start_keras", loads)


@pytest.fixture
def here(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.link("model.keras", "other.keras")
    np.savez("data.npz", x=np.zeros(1), y=np.zeros(1))
    np.savez("d.npz", x_train=np.zeros(1), x_test=np.zeros(1))
    os.mkdir("full")
    (tmp_path / "full" / "photo.jpg").write_text("x")
    (tmp_path / "text").write_text("x")
    (tmp_path / "manifest.json").write_text("{}")
    return tmp_path


METHOD = ("--method", "similarity", "--data", "data.npz")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("prune model.keras no/t.keras", "'no/t.keras': the folder"),
        ("prune model.keras full/t.keras/x.onnx", "does not exist"),
        ("prune model.keras full", "Will not replace the folder 'full'"),
        ("prune model.keras text", "folder 'text': it is a file"),
        ("prune model.keras model.keras", "with --overwrite"),
        ("prune model.keras other.keras", "'other.keras' is an input"),
        ("prune none.keras a.keras", "no file 'none.keras'"),
        ("prune model.keras a.keras --data none.npz", "no file 'none.npz'"),
        ("prune model.keras a.keras --run-dir text", "'text': it is a file"),
        ("prune model.keras a.keras --run-dir text/runs", "text' is a file"),
        ("export model.keras model.keras", "with --overwrite"),
        ("report none", "no folder 'none'"),
        ("export model.keras a.onnx --original none.onnx", "'none.onnx'"),
        ("export model.keras /dev/null", "folder '/dev/null': it is a file"),
        ("inspect none.keras", "no file 'none.keras'"),
        ("bench model.keras none.tflite", "no file 'none.tflite'"),
        ("demo --out text", "folder 'text': it is a file"),
        ("latency profile model.keras --table no/a.json", "'no/a.json'"),
        ("latency files model.keras text", "folder 'text': it is a file"),
        ("latency files model.keras text/a", "text' is a file"),
        ("sweep model.keras --data d.npz --out model.keras", "is an input"),
        ("sweep model.keras --data d.npz --run-dir text", "it is a file"),
        ("latency read . --device a --out manifest.json", "is an input"),
        ("latency show none.json", "no file 'none.json'"),
    ],
)
def test_before_keras_is_loaded(command, said, here, no_keras):
    before = sorted(os.listdir())
    words = command.split()
    extra = METHOD if words[0] == "prune" and len(words) == 3 else ()
    assert_fails(run(*words, *extra), said)
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("prune model.keras t.xyz", "'.xyz' of 't.xyz'"),
        (
            "export model.keras t.h5",
            "Models are no longer written as HDF5",
        ),
        ("export model.keras a.tflit --quantize int8 --data x", "'.tflite'"),
        ("inspect model.keras --graph a.png", "written as .svg or .html"),
        ("latency profile model.keras --table a.txt", "written as .json"),
        ("sweep model.keras --data d.npz --out a.onnx", "written as .keras"),
        ("latency read . --device a --out a.txt", "written as .json"),
    ],
)
def test_a_wrong_suffix_is_wrong_usage(command, said, here, no_keras):
    result = run(*command.split())
    told = " ".join(result.output.replace("│", "").split())
    assert result.exit_code == 2 and said in told, told


def test_the_help_lists_the_suffixes_of_all_formats():
    for command in ("prune", "export"):
        told = run(command, "--help").stdout
        for name in modules("formats").keys() - {FOLDER}:
            assert f".{name}" in told


def test_the_input_is_replaced_when_asked_for(saved):
    before = keras.saving.load_model(saved).count_params()
    result = run("prune", saved, saved, "--overwrite")
    assert result.exit_code == 0, result.output
    assert keras.saving.load_model(saved).count_params() < before
