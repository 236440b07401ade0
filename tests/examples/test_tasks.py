"""Each example does what it says, offline and on one core."""

from __future__ import annotations

import json
import re

import keras
import pytest
from examples.scripts import EXAMPLES
from examples.scripts import assert_halved
from examples.scripts import before_and_after
from examples.scripts import run
from programs import python_with

import kprune

SCRIPTS = sorted(path.stem for path in EXAMPLES.glob("*.py"))


def test_every_script_and_notebook_is_listed_by_its_task():
    text = (EXAMPLES / "README.md").read_text("utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert {f"{name}.py" for name in SCRIPTS} <= set(links)
    notebooks = {f"notebooks/{p.name}" for p in EXAMPLES.glob("notebooks/*")}
    assert notebooks <= set(links)
    assert all((EXAMPLES / link).exists() for link in links)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_begins_with_what_it_does(name):
    head = (EXAMPLES / f"{name}.py").read_text("utf-8").split('"""')[1]
    first = head.splitlines()[0]
    assert first.endswith(".") and len(first) < 95
    if name not in ("common", "quickstart"):
        assert f"python examples/{name}.py" in head


@pytest.mark.slow
def test_a_unet_is_pruned(tmp_path):
    text = run(tmp_path, "segmentation_unet")
    assert_halved(text)
    assert before_and_after(text, "iou")[1] > 0.75
    compact = keras.models.load_model(tmp_path / "unet.keras", compile=False)
    assert kprune.cost(compact).macs == before_and_after(text, "MACs")[1]


@pytest.mark.slow
def test_a_detector_is_pruned(tmp_path):
    text = run(tmp_path, "detector")
    assert_halved(text)
    assert before_and_after(text, "found")[1] > 0.85
    assert (tmp_path / "detector.tflite").read_bytes()[4:8] == b"TFL3"


@pytest.mark.slow
def test_a_network_on_sound_is_pruned(tmp_path):
    text = run(tmp_path, "audio_1d")
    assert_halved(text)
    before, after = before_and_after(text, "accuracy")
    assert before > 0.85 and after > before - 0.1
    assert (tmp_path / "sounds.tflite").read_bytes()[4:8] == b"TFL3"


@pytest.mark.slow
def test_a_classifier_of_keras_hub_is_pruned(tmp_path):
    pytest.importorskip("keras_hub", reason="needs keras-hub")
    text = run(tmp_path, "keras_hub_classifier")
    assert_halved(text)
    assert before_and_after(text, "accuracy")[1] > 0.9
    compact = keras.models.load_model(tmp_path / "classifier.keras")
    modules = {type(layer).__module__ for layer in compact._flatten_layers()}
    assert not any(module.startswith("keras_hub") for module in modules)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_a_loop_of_ones_own_prunes_on_every_backend(tmp_path, backend):
    python = python_with(backend)
    text = run(tmp_path, "custom_loop", python=python, KERAS_BACKEND=backend)
    assert_halved(text)
    assert before_and_after(text, "accuracy")[1] > 0.9
    assert keras.models.load_model(tmp_path / "digits.keras")


@pytest.mark.slow
def test_pipelines_of_both_kinds_feed_training_and_pruning(tmp_path):
    text = run(tmp_path, "input_pipelines")
    for part in text.split("tf.data\n")[1].split("PyDataset\n"):
        assert_halved(part)
        assert before_and_after(part, "accuracy")[1] > 0.9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "name"), [("tensorflow", "TensorFlow"), ("jax", "JAX")]
)
def test_several_devices_train_one_pruned_model(tmp_path, backend, name):
    python = python_with(backend)
    text = run(
        tmp_path, "several_devices", python=python, KERAS_BACKEND=backend
    )
    assert f"2 devices of {name}" in text
    assert_halved(text)
    assert before_and_after(text, "accuracy")[1] > 0.9


@pytest.mark.slow
def test_optuna_finds_models_by_sweep_and_by_an_own_objective(tmp_path):
    text = run(tmp_path, "optuna_search", "--trials", 3)
    paths = re.findall(r"best of .*: (.*)", text)
    assert len(paths) == 2
    assert all((tmp_path / path).is_file() for path in paths)
    found = re.findall(r"accuracy ([\d.]+), ([\d,]+) MACs", text)
    accuracies = [float(accuracy) for accuracy, _ in found]
    macs = [int(number.replace(",", "")) for _, number in found]
    # None of them is beaten: whoever is smaller is less accurate.
    assert found and sorted(accuracies) == [
        a for _, a in sorted(zip(macs, accuracies, strict=True))
    ]


@pytest.mark.slow
def test_ray_tune_runs_the_same_objective(tmp_path):
    pytest.importorskip("ray.tune", reason='needs "ray[tune]"')
    text = run(tmp_path, "ray_tune", "--trials", 2, "--workers", 1)
    found = re.findall(r"accuracy ([\d.]+), ([\d,]+) MACs", text)
    assert len(found) == 2
    assert all(0 < float(accuracy) <= 1 for accuracy, _ in found)


@pytest.mark.slow
def test_files_for_an_app_answer_as_the_model_does(tmp_path):
    text = run(tmp_path, "export_android")
    assert_halved(text)
    expected = before_and_after(text, "accuracy")[1]
    measured = float(re.search(r"accuracy of the files: ([\d.]+)", text)[1])
    assert measured == pytest.approx(expected, abs=0.02)
    assets = tmp_path / "assets"
    assert (assets / "labels.txt").read_text().split() == list("0123456789")
    told = json.loads((assets / "digits.json").read_text())
    assert told["input"]["shape"] == [1, 8, 8, 1]
    assert told["output"] == {
        "shape": [1, 10],
        "type": "float32",
        "activation": "none, the largest score wins",
    }


@pytest.mark.slow
def test_a_header_for_a_microcontroller_fits_its_ram(tmp_path):
    text = run(tmp_path, "export_microcontroller")
    arenas = re.findall(r"^arena: ([\d,]+) bytes", text, re.MULTILINE)
    first, last = (int(number.replace(",", "")) for number in arenas)
    assert first > 7000 >= last
    expected = before_and_after(text, "accuracy")[1]
    measured = float(re.search(r"accuracy of the header: ([\d.]+)", text)[1])
    assert measured == pytest.approx(expected, abs=0.02)
    header = (tmp_path / "digits.h").read_text()
    size = int(re.search(r"ARENA_SIZE\D+(\d+)", header)[1])
    assert size == last
