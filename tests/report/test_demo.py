from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

import kprune
from kprune.report.demo import DemoSettings
from kprune.report.demo import build_model


def test_the_network_has_residual_groups_and_is_prunable_but_for_its_output():
    model = build_model()
    assert model.count_params() == 96_610
    graph = kprune.trace(model)
    assert graph.coverage.pinned == 10
    stages = [g for g in graph.prunable if len(g.producers) == 3]
    assert [g.size for g in stages] == [24, 48]


@pytest.mark.parametrize("reduce", [0, 1, -0.5, 60])
def test_settings_refuse_a_share_that_is_none(reduce):
    with pytest.raises(ValueError, match=re.escape(f"Received: {reduce}")):
        DemoSettings(reduce=reduce)


def demo(folder, *arguments: str) -> str:
    code = "from kprune.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", code, "demo", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "100"},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def accuracy(text: str, row: str) -> float:
    line = next(
        line for line in text.splitlines() if line.startswith(f"│ {row} ")
    )
    return float(line.split("│")[6].strip(" %"))


@pytest.mark.slow
def test_the_demo_keeps_the_accuracy_that_the_bare_cut_loses(tmp_path):
    text = demo(tmp_path)
    original, compact = accuracy(text, "original"), accuracy(text, "compact")
    assert original > 97 and compact >= original - 1
    assert accuracy(text, "masked") == compact
    assert accuracy(text, "TFLite") == compact == accuracy(text, "ONNX")
    assert accuracy(text, "TFLite-int8") >= compact - 1
    removed = re.search(r"([\d.]+) % fewer MACs", text)
    assert removed and 60 <= float(removed[1]) < 63
    bare = re.search(r"without training: ([\d.]+) %", text)
    assert bare and float(bare[1]) < original - 10
    assert {p.name for p in (tmp_path / "kprune-demo").iterdir()} == {
        *("original.tflite", "compact.keras", "compact.tflite"),
        *("compact-int8.tflite", "compact.onnx"),
    }


@pytest.mark.slow
def test_a_quick_demo_with_other_settings(tmp_path):
    text = demo(
        tmp_path, "--quick", "--reduce", "0.3", "--out", "here", "--seed", "7"
    )
    removed = re.search(r"([\d.]+) % fewer MACs", text)
    assert removed and 30 <= float(removed[1]) < 33
    assert (tmp_path / "here" / "compact.tflite").exists()
