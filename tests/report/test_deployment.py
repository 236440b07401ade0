from __future__ import annotations

import importlib.util
import io

import keras
import numpy as np
import pytest
from rich.console import Console

import kprune
from kprune.report import deployment
from kprune.report.deployment import Deployment
from kprune.report.deployment import deploy
from kprune.report.deployment import print_result
from kprune.report.evaluation import Evaluation
from kprune.report.rows import Row

FILES = (
    "compact.keras",
    "compact.tflite",
    "compact-int8.tflite",
    "compact.onnx",
)


@pytest.fixture
def evaluation(model, x, tmp_path, monkeypatch) -> Evaluation:
    measure = Evaluation.measure_latency
    monkeypatch.setattr(
        Evaluation, "measure_latency", lambda self: measure(self, 0.05)
    )
    y = np.asarray(model(x)).argmax(axis=-1)
    result = Evaluation(x, y, tmp_path)
    result.add_model("original", model, "original.tflite")
    return result


def printed(evaluation: Evaluation, result: Deployment) -> str:
    console = Console(file=io.StringIO(), width=100)
    print_result(console, evaluation, result)
    return console.file.getvalue()


def test_deploy_makes_rows_files_and_a_summary(model, x, evaluation, tmp_path):
    pytest.importorskip("tf2onnx")
    masked = kprune.prune(model, reduce={"macs": 0.5})
    result = deploy(evaluation, masked, x)
    assert [row.name for row in evaluation.rows] == [
        *("original", "masked", "compact", "TFLite", "TFLite-int8", "ONNX")
    ]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        [*FILES, "original.tflite"]
    )
    expected = np.asarray(masked(x))
    np.testing.assert_allclose(result.compact(x), expected, atol=1e-6)
    assert result.equality < 1e-6 and result.notes == ()
    loaded = keras.saving.load_model(tmp_path / "compact.keras")
    np.testing.assert_allclose(loaded(x), expected, atol=1e-6)
    for name in ("TFLite", "ONNX"):
        assert evaluation[name].difference < 1e-5
        assert evaluation[name].accuracy == evaluation["compact"].accuracy
    assert evaluation["masked"].latency is None
    for name in ("original", "TFLite", "TFLite-int8", "ONNX"):
        assert evaluation[name].latency > 0

    text = printed(evaluation, result)
    before, after = kprune.cost(model).macs, kprune.cost(result.compact).macs
    assert f"{100 * (1 - after / before):.1f} % fewer MACs" in text
    assert "masked and compact outputs differ by" in text
    for name in ("TFLite", "TFLite-int8", "ONNX"):
        assert f"{name} against Keras on 30 test inputs" in text
    assert str(tmp_path) in text.replace("\n", "")
    for file in FILES:
        assert file in text


@pytest.mark.slow
def test_without_onnx_its_row_is_left_out_and_the_extra_named(
    model, x, evaluation, monkeypatch
):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        deployment.importlib.util,
        "find_spec",
        lambda name: None if name == "tf2onnx" else find(name),
    )
    result = deploy(evaluation, kprune.prune(model, reduce={"macs": 0.5}), x)
    assert [row.name for row in evaluation.rows][-1] == "TFLite-int8"
    assert 'tf2onnx missing; run pip install "kprune[onnx]"' in printed(
        evaluation, result
    )


def test_a_compact_model_that_differs_is_an_error(
    model, x, evaluation, monkeypatch
):
    masked = kprune.prune(model, reduce={"macs": 0.5})
    wrong = kprune.rebuild(masked)
    wrong.get_layer("scores").bias.assign([0.1, 0, 0])
    monkeypatch.setattr(kprune, "rebuild", lambda masked: wrong)
    with pytest.raises(RuntimeError, match="differs from the masked one"):
        deploy(evaluation, masked, x)


def test_the_summary_counts_points(model, x, tmp_path):
    evaluation = Evaluation(x, np.zeros(30, int), tmp_path)
    evaluation.rows = [
        Row("original", macs=1000, params=200, accuracy=0.99),
        Row("compact", macs=400, params=150, accuracy=0.985),
    ]
    text = printed(evaluation, Deployment(model, 0.0))
    assert (
        "compact against original: 60.0 % fewer MACs, 25.0 % fewer parameters, "
        "-0.50 points of accuracy"
    ) in text
