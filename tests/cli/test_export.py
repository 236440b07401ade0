"""`kprune export`."""

from __future__ import annotations

import importlib.util
import json
import shlex

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from cli.running import assert_fails
from cli.running import run

import kprune
from kprune.commands.export import FORMATS
from kprune.commands.export import OPSETS
from kprune.commands.export import QUANTIZED
from kprune.commands.export import Quantize
from kprune.export.formats import onnx
from kprune.export.formats.base import registry
from kprune.export.runtime import open_runtime


def test_export_tflite(saved, tmp_path):
    out = tmp_path / "model.tflite"
    result = run("export", saved, out)
    assert result.exit_code == 0, result.output
    assert out.exists() and "difference to Keras" in result.stdout


def test_export_int8(saved, tmp_path, x):
    np.save(tmp_path / "x.npy", x)
    small, large = tmp_path / "int8.tflite", tmp_path / "float.tflite"
    run("export", saved, large)
    result = run(
        "export",
        saved,
        small,
        *("--quantize", "int8", "--calibration", tmp_path / "x.npy"),
    )
    assert result.exit_code == 0, result.output
    assert "int8" in result.stdout
    assert small.stat().st_size < large.stat().st_size


def test_export_rebuilds_a_masked_model(model, tmp_path):
    masked = kprune.prune(model, reduce={"macs": 0.5})
    masked.save(tmp_path / "masked.keras")
    out = tmp_path / "compact.keras"
    result = run("export", tmp_path / "masked.keras", out)
    assert result.exit_code == 0, result.output
    compact = keras.saving.load_model(out)
    assert kprune.cost(compact).macs <= 0.5 * kprune.cost(model).macs


def test_export_options_reach_the_file(saved, tmp_path, x):
    np.save(tmp_path / "x.npy", x)
    tflite, onnx = tmp_path / "model.tflite", tmp_path / "model.onnx"
    int8 = ("--quantize", "int8", "--calibration", tmp_path / "x.npy")
    result = run(
        *("export", saved, tflite, *int8, "--io-dtype", "int8"),
        *("--batch-size", 4, "--tolerance", "inf"),
    )
    assert result.exit_code == 0, result.output
    (detail,) = Interpreter(model_path=str(tflite)).get_input_details()
    assert detail["dtype"] == np.int8 and list(detail["shape"]) == [4, 8, 8, 1]
    result = run(
        *("export", saved, onnx, "--opset", 13, "--batch-size", 2, "--json"),
        *("--original", tflite),
    )
    report = json.loads(result.stdout)
    assert report["size_before"] == tflite.stat().st_size
    assert report["size"] == onnx.stat().st_size
    runtime = open_runtime(onnx)
    assert runtime.inputs[0].shape == (2, 8, 8, 1)
    result = run("export", saved, tflite, "--batch-size", 0)
    assert result.exit_code == 0, result.output
    assert open_runtime(tflite).inputs[0].shape == (None, 8, 8, 1)


def test_export_to_a_c_array(saved, tmp_path):
    out = tmp_path / "model.h"
    result = run("export", saved, out)
    assert result.exit_code == 0, result.output
    assert "tensor arena" in result.stdout
    assert "model_tflite[]" in out.read_text()


def test_export_beyond_the_tolerance(saved, tmp_path):
    out = tmp_path / "model.tflite"
    result = run(
        "export", saved, out, "--quantize", "float16", "--tolerance", 1e-12
    )
    assert_fails(result, "differs from Keras", "larger `--tolerance`")
    assert not out.exists()


def test_options_are_those_of_the_formats():
    for name in registry.names:
        chosen = registry.get(name)
        for option, suffixes in FORMATS.items():
            has = (
                len(chosen.quantize) > 1
                if option == "quantize"
                else option in chosen.options
            )
            assert has == (chosen.suffix in suffixes), (name, option)
        if len(chosen.quantize) > 1:
            accepted = QUANTIZED.get(chosen.suffix, Quantize)
            assert {None, *accepted} == set(chosen.quantize)
    assert OPSETS == onnx._OPSETS


@pytest.mark.skipif(
    importlib.util.find_spec("ai_edge_quantizer") is None,
    reason="needs kprune[edge]",
)
def test_4_bits_from_the_command_line(saved, tmp_path, x):
    np.save(tmp_path / "x.npy", x)
    out = tmp_path / "model.tflite"
    asked = ("export", saved, out, "--calibration", tmp_path / "x.npy")
    result = run(*asked, "--quantize", "mixed", "--error-limit", 100, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["quantize"] == "mixed"
    assert any("4 bits in" in note for note in told["notes"])


def test_limits_are_checked_before_anything_is_loaded(saved, tmp_path):
    out = tmp_path / "model.tflite"
    result = run("export", saved, out, "--quantize", "int4")
    assert result.exit_code == 2 and "needs typical inputs" in result.output
    asked = (
        "export",
        saved,
        out,
        "--data",
        tmp_path / "x.npy",
        "--size-limit",
        9,
    )
    result = run(*asked, "--quantize", "int8")
    assert result.exit_code == 2 and "needs --quantize mixed" in result.output
    result = run(*asked, "--quantize", "mixed", "--error-limit", 2)
    assert result.exit_code == 2 and "one limit" in result.output
    result = run("export", saved, out, "--quantize", "int2")
    assert result.exit_code == 2 and "int4" in result.output


def test_suggested_commands_keep_all_options(tmp_path, monkeypatch):
    def shown(model, found, typical, command):
        raise RuntimeError(command)

    monkeypatch.setattr("kprune.commands.exporting.Exporting", shown)
    for name in ("m.keras", "x.npy", "old.tflite"):
        (tmp_path / name).touch()
    x = tmp_path / "x.npy"
    np.save(x, np.zeros((2, 8, 8, 1)))
    common = ["--tolerance", "0.5", "--original", tmp_path / "old.tflite"]
    common += ["--batch-size", 0, "--overwrite"]
    calibrated = ["--calibration", x, "--io-dtype", "int8"]
    for out, options in (
        ("m.tflite", ["--quantize", "int8", *calibrated]),
        (
            "m.tflite",
            ["--quantize", "mixed", *calibrated, "--error-limit", 3.0],
        ),
        ("m.tflite", ["--quantize", "mixed", *calibrated, "--size-limit", 999]),
        ("m.tflite", ["--epochs", 2, "--clusters", 16, "--data", x]),
        ("m.onnx", ["--opset", 17]),
    ):
        words = ["export", tmp_path / "m.keras", tmp_path / out]
        words = [str(w) for w in (*words, *options, *common)]
        result = run(*words)
        command = shlex.split(result.stderr.split("error: ")[-1])
        assert sorted(command) == sorted(["kprune", *words])
