"""The comparisons on ONNX Runtime and for an Ethos-U, on a tiny network."""

from __future__ import annotations

import json
import sys
import types

import pytest
from shared_data import ROOT
from tiny_images import network

sys.path.append(str(ROOT / "benchmarks" / "latency"))

import frontier
import own_table
import subjects

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]


def test_half_of_the_time_is_predicted_and_measured(monkeypatch):
    pytest.importorskip("tf2onnx", reason="needs the extra onnx")
    monkeypatch.setattr(
        subjects, "SUBJECTS", {"tiny, 8 px": lambda: network(128)}
    )
    found = json.loads(json.dumps(own_table.run("tiny, 8 px")))
    assert found["predicted"] >= 2
    assert found["macs"] < 0.9
    value, low, high = found["speedup"]
    assert low <= value <= high
    assert found["error"] == pytest.approx(
        found["predicted"] / value - 1, abs=1e-3
    )


def test_ways_are_compared_by_the_time_on_an_npu(monkeypatch):
    pytest.importorskip("ethosu.vela", reason="needs the extra ethos")
    monkeypatch.setattr(
        subjects, "SUBJECTS", {"tiny, 8 px": lambda: network(24)}
    )
    monkeypatch.setattr(frontier, "LATENCIES", (0.2,))
    monkeypatch.setattr(frontier, "MACS", (0.4,))
    options = types.SimpleNamespace(models=None)
    found = frontier.run("tiny, 8 px", options, frontier.on_npu)
    rows = {row["way"]: row for row in found["rows"]}
    assert list(rows) == list(frontier.WAYS)
    assert rows["latency"]["latency"] <= 0.8 < 1
    assert rows["macs"]["macs"] <= 0.6
    assert "Ethos-U55-128" in found["device"]
    # Without data, the published networks cannot be compared.
    with pytest.raises(ValueError, match="--models"):
        frontier.run("ResNet-8, 32 px", options, frontier.on_npu)
