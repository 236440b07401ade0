"""`kprune export` with training: --quantize qat and --clusters."""

from __future__ import annotations

import importlib.util

import keras
import numpy as np
import pytest
from cli.running import run
from keras import layers

import kprune

needs_tfmot = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow_model_optimization") is None,
    reason="needs kprune[tfmot]",
)


@pytest.fixture
def files(tmp_path):
    """A compiled model and data to train it on."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(16, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(4, activation="softmax"),
        ]
    )
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.save(tmp_path / "model.keras")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 8, 8, 3)).astype("float32")
    np.savez(tmp_path / "train.npz", x=x, y=rng.integers(0, 4, 64))
    np.save(tmp_path / "x.npy", x)
    return tmp_path


@pytest.mark.slow
@needs_tfmot
def test_qat_and_clusters(files):
    result = run(
        "export",
        files / "model.keras",
        files / "out.tflite",
        *("--quantize", "qat", "--data", files / "train.npz"),
        *("--epochs", 2, "--clusters", 8, "--calibration", files / "x.npy"),
    )
    assert result.exit_code == 0, result.output
    assert "LiteRT qat" in result.output
    assert "kernels clustered to 8 weights: 2, trained for 2" in result.output
    assert "quantisation-aware training of" in result.output
    assert (files / "out.tflite").exists()


@pytest.mark.parametrize(
    ("options", "calibrates", "verifies"),
    [
        (("--quantize", "qat"), None, None),
        (("--quantize", "qat", "--validation"), None, "other"),
        (("--clusters", 8, "--validation"), None, "other"),
        (("--quantize", "qat", "--calibration"), "other", None),
        (("--quantize", "int8", "--validation"), "train", "other"),
        (("--quantize", "int8", "--calibration"), "other", "train"),
    ],
)
def test_no_file_is_judged_by_the_samples_that_made_it(
    files, monkeypatch, options, calibrates, verifies
):
    arrays = {"train": np.load(files / "train.npz")["x"]}
    arrays["other"] = arrays["train"] + 1
    np.savez(files / "other.npz", x=arrays["other"], y=np.zeros(64, np.int64))
    passed = {}

    def export(*args, **kwargs):
        passed.update(kwargs)
        raise ValueError("enough")

    monkeypatch.setattr(kprune, "export", export)
    if options[-1] in ("--validation", "--calibration"):
        options = (*options, files / "other.npz")
    run(
        "export",
        files / "model.keras",
        files / "out.tflite",
        *("--data", files / "train.npz"),
        *options,
    )
    for name, wanted in (("calibration", calibrates), ("validation", verifies)):
        given = passed.get(name)
        assert (given is None) == (wanted is None)
        if wanted is not None:
            np.testing.assert_array_equal(given, arrays[wanted])


@needs_tfmot
def test_a_model_without_a_loss(files):
    model = keras.saving.load_model(files / "model.keras", compile=False)
    model.save(files / "model.keras")
    result = run(
        "export",
        files / "model.keras",
        files / "out.tflite",
        *("--quantize", "qat", "--data", files / "train.npz"),
    )
    assert result.exit_code == 1
    assert "not compiled with a loss" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--quantize", "qat"), "--data"),
        (("--clusters", "1"), "--clusters"),
        (("--epochs", "0", "--quantize", "qat"), "--epochs"),
    ],
)
def test_wrong_usage_is_exit_code_2(arguments, message):
    result = run("export", "a.keras", "b.tflite", *arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_options_of_other_formats_are_refused(files):
    result = run(
        "export",
        files / "model.keras",
        files / "out.onnx",
        *("--clusters", 8),
    )
    assert result.exit_code == 2
    assert "--clusters" in result.output
