"""The comparison with Torch-Pruning, without PyTorch: batches, runs, the page."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys

import numpy as np
import pytest
from shared_data import ROOT
from tiny_images import images
from tiny_images import network

sys.path.append(str(ROOT / "benchmarks" / "methods"))

import data
import experiment

# Another folder of benchmarks has a module of that name.
spec = importlib.util.spec_from_file_location(
    "peers", ROOT / "benchmarks" / "peers" / "run.py"
)
peers = importlib.util.module_from_spec(spec)
sys.modules["peers"] = peers
spec.loader.exec_module(peers)

SETTING = peers.Setting(
    epochs=2, images=32, batch_size=16, calibration=32, learning_rate=1e-4
)


@pytest.fixture
def bench(monkeypatch, tmp_path):
    monkeypatch.setattr(data, "CHOICE", slice(None, 12))
    monkeypatch.setattr(data, "REPORT", slice(12, None))
    monkeypatch.setattr(experiment, "BATCH", 12)
    return peers.Bench(SETTING, images(), network(), tmp_path)


def test_batches_are_those_of_the_setting(bench):
    path = bench.batches(0)
    with np.load(path) as arrays:
        assert arrays["x"].shape[:2] == (4, 16)
        assert arrays["x"].dtype == np.uint8
        first = arrays["x"]
    assert bench.batches(0) == path
    bench.setting = dataclasses.replace(SETTING, epochs=1)
    with np.load(bench.batches(0)) as arrays:
        np.testing.assert_array_equal(arrays["x"], first[:2])


def test_a_run_of_kprune_meets_its_target_and_stands_on_the_page(
    bench, tmp_path
):
    task = peers.Task("kprune-l1", 0.4, 0, tmp_path / "results" / "one.json")
    found = bench.run(task)
    assert 0.4 <= found["macs_removed"] < 0.6
    assert set(found["final"]) == set(found["pruned"]) == set(found["baseline"])
    task.path.parent.mkdir()
    task.path.write_text(json.dumps(found))
    peers.page_of(task.path.parent, tmp_path / "page.md")
    row = (tmp_path / "page.md").read_text().splitlines()[-1]
    assert f"{100 * found['macs_removed']:.1f} %" in row
    assert f"{found['final']['test[5000:]']:.2f}" in row


def test_another_count_of_macs_is_an_error(bench, tmp_path, monkeypatch):
    answer = json.dumps({"full_macs": bench.cost.macs + 1})
    done = type("Done", (), {"stdout": answer})
    monkeypatch.setattr(peers.subprocess, "run", lambda *a, **k: done)
    task = peers.Task("torch-random", 0.4, 0, tmp_path / "one.json")
    with pytest.raises(ValueError, match="targets would differ"):
        bench.run(task)
