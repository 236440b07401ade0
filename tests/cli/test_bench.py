"""`kprune bench`."""

from __future__ import annotations

import json

import keras
import pytest
from cli.running import run

import kprune


@pytest.fixture
def quick(monkeypatch):
    """Arguments of the measurements, which are cut short."""
    asked = []

    def short(name, **changes):
        original = getattr(kprune, name)

        def called(subject, **options):
            asked.append((subject, options))
            return original(subject, **{**options, **changes})

        monkeypatch.setattr(kprune, name, called)

    short("benchmark", runs=10, seconds=0.0)
    short("compare", rounds=6, seconds=0.0, precision=None)
    return asked


def test_bench_compares_with_the_first_file(saved, tmp_path, quick):
    tflite = tmp_path / "model.tflite"
    onnx = tmp_path / "model.onnx"
    for path in (tflite, onnx):
        kprune.export(keras.saving.load_model(saved), path)
    files = (tflite, saved, onnx)
    result = run("bench", *files, "--threads", 2, "--precision", 0.1)
    assert result.exit_code == 0, result.output
    ((subjects, options),) = quick
    assert subjects[0] == tflite and subjects[1].name == "small"
    assert options["threads"] == 2 and options["precision"] == 0.1
    for word in ("median", "95 % interval", "p10 to p90", "model.onnx"):
        assert word in result.stdout
    verdicts = result.stdout.splitlines()[-2:]
    for line, file in zip(verdicts, files[1:], strict=True):
        assert (
            file.name in line and "model.tflite" in line and "95 % CI" in line
        )


def test_bench_json(saved, tmp_path, quick):
    tflite = tmp_path / "model.tflite"
    kprune.export(keras.saving.load_model(saved), tflite)
    result = run("bench", saved, tflite, "--json", "--seconds", 5)
    data = json.loads(result.stdout)
    assert quick[0][1]["time_limit"] == 5
    assert data["rounds"] == 6 and len(data["verdicts"]) == 1
    assert [m["name"] for m in data["models"]] == [str(saved), str(tflite)]
    assert data["models"][1]["size"] == tflite.stat().st_size
    assert set(data["models"][1]["ratio"]) == {
        "value",
        "low",
        "high",
        "verdict",
    }


def test_bench_of_one_file(saved, quick):
    result = run("bench", saved, "--json")
    (model,) = json.loads(result.stdout)["models"]
    assert model["runs"] >= 10 and model["runtime"] == "LiteRT"
    assert model["low"] <= model["median"] <= model["high"]
    assert "model.keras" in run("bench", saved).stdout
