"""The comparison on ONNX Runtime, on a tiny network."""

from __future__ import annotations

import json
import sys

import pytest
from shared_data import ROOT
from tiny_images import network

sys.path.append(str(ROOT / "benchmarks" / "latency"))

import own_table
import subjects

pytest.importorskip("tf2onnx", reason="needs the extra onnx")
pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]


def test_half_of_the_time_is_predicted_and_measured(monkeypatch):
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
