"""The tables of MLPerf Tiny, on a tiny network: runs, their figures, the page."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys

import keras
import numpy as np
import pytest
from shared_data import ROOT
from tiny_images import CLASSES
from tiny_images import images
from tiny_images import network

import kprune

sys.path.append(str(ROOT / "benchmarks" / "mlperf_tiny"))

import common
import costs
import data
import experiment
import suite
import tables
import trained
import widths

# Other folders of benchmarks have a module of that name.
spec = importlib.util.spec_from_file_location(
    "mlperf_tiny", ROOT / "benchmarks" / "mlperf_tiny" / "run.py"
)
run = importlib.util.module_from_spec(spec)
spec.loader.exec_module(run)

pytest.importorskip("ethosu.vela", reason="needs the extra ethos")
pytestmark = pytest.mark.tensorflow

SETTING = trained.Setting(images=32, batch_size=16, epochs=1, calibration=32)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(
        suite, "NETWORKS", {"ic": ("a tiny one", lambda folder: network())}
    )
    monkeypatch.setattr(costs.subjects, "timer", lambda *arguments: 0.25)


@pytest.fixture
def bench(monkeypatch, tmp_path):
    monkeypatch.setattr(data, "CHOICE", slice(None, 12))
    monkeypatch.setattr(data, "REPORT", slice(12, None))
    monkeypatch.setattr(experiment, "BATCH", 12)
    return trained.Bench(SETTING, images(), network(), tmp_path / "checkpoints")


def test_keyword_spotting_is_the_network_of_the_suite():
    model = suite.ds_cnn()
    assert model.count_params() == 24908
    assert model.output_shape == (None, 12)


def test_costs_are_run_once_and_stand_on_the_page(tiny, tmp_path, monkeypatch):
    command = f"--parts costs page --results {tmp_path} --data {tmp_path} "
    command += f"--page {tmp_path / 'page.md'} --networks ic"
    monkeypatch.setattr(costs, "WAYS", {"macs": costs.WAYS["macs"]})
    assert run.main(command.split()) == 0
    times = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*.json")}
    assert run.main(command.split()) == 0
    assert len(times) == 2
    assert times == {p: p.stat().st_mtime_ns for p in times}
    result = json.loads((tmp_path / "costs-ic-macs-0.5.json").read_text())
    left = result["final"]["macs"] / result["before"]["macs"]
    assert 0.3 < left <= 0.5
    assert result["final"]["flash"] < result["before"]["flash"]
    page = (tmp_path / "page.md").read_text()
    assert "### A tiny one" in page
    row = next(line for line in page.splitlines() if "| MACs | 50%" in line)
    assert f"({left:.0%})**" in row


def test_targets_that_cannot_be_met_are_told(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(costs, "SHARES", (0.999,))
    monkeypatch.setattr(costs, "WAYS", {"macs": costs.WAYS["macs"]})
    (task,) = costs.tasks(["ic"], tmp_path)
    result = costs.Bench(tmp_path).run(task)
    assert result["final"] is None
    common.write(task.path, result)
    tables.write_page(tmp_path, tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    assert "not met" in page and "Cannot remove 99.9%" in page


def test_the_network_that_trains_computes_what_the_published_one_does():
    published, x = (
        network(),
        255 * np.random.default_rng(0).random((4, 8, 8, 3)),
    )
    scaled = trained.scaled(published, trained.PIXELS)
    expected = published.predict(x, verbose=0)
    found = scaled.predict(x / trained.PIXELS, verbose=0)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
    back = trained.as_published(scaled).predict(x, verbose=0)
    softmax = keras.ops.convert_to_numpy(keras.ops.softmax(expected))
    np.testing.assert_allclose(back, softmax, rtol=1e-4, atol=1e-6)


def test_a_trained_run_tells_of_its_int8_file(bench, tmp_path, monkeypatch):
    arm = dataclasses.replace(trained.ARMS["widest"], widths=(4, 5))
    monkeypatch.setitem(trained.points.ARMS, "widest", arm)
    monkeypatch.setattr(trained.training, "CLASSES", CLASSES)
    (task,) = trained.tasks(["widest"], [], [0], SETTING, tmp_path / "results")
    result = bench.run(task)
    assert list(result["pruned"]["kept"].values()) == [4, 5]
    int8 = result["int8"]
    assert int8["arena"]["after"] < int8["arena"]["before"]
    assert int8["vela_milliseconds"]["after"] > 0
    assert 0 <= int8["accuracy"]["after"]["test"] <= 100
    assert result["qat"]["arena"] == int8["arena"]["after"]
    common.write(task.path, result)
    assert task.done(SETTING)
    tables.write_page(task.path.parent, tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    row = next(line for line in page.splitlines() if "the widest" in line)
    assert f"| {int8['accuracy']['after']['test']:.2f} |" in row
    assert (
        f"| 1, rate 0.0001 | {result['qat']['accuracy']['test']:.2f} |" in row
    )


@pytest.mark.slow
def test_widths_within_the_limits_are_found_with_their_macs(monkeypatch):
    monkeypatch.setattr(widths, "LIMIT", 0.97)
    tried, fitting = widths.search(network(), ((2, 8), (2, 4)))
    assert tried == 4
    masked = kprune.wrap(network())
    full = kprune.cost(masked).macs
    for row in fitting:
        assert max(row["time"], row["sram"]) <= 0.97
        compact = costs.subjects.with_counts(masked, np.array(row["kept"]))
        assert kprune.cost(compact).macs / full == pytest.approx(
            row["macs"], abs=1e-3
        )
    assert [row["macs"] for row in fitting] == sorted(
        (row["macs"] for row in fitting), reverse=True
    )
    assert fitting


@pytest.mark.parametrize(
    ("epochs", "words"), [(1, "in the first epoch,"), (3, "first 3 epochs,")]
)
def test_the_rise_of_the_learning_rate_in_words(epochs, words):
    setting = dataclasses.replace(SETTING, warmup=epochs).config()
    assert words in tables.schedule(setting)
