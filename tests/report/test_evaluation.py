from __future__ import annotations

import keras
import numpy as np
import pytest

import kprune
from kprune.export.runtime import open_runtime
from kprune.report.evaluation import Evaluation
from kprune.report.measure import accuracy
from kprune.report.measure import predict
from kprune.report.measure import relative_difference


def labels_with(model: keras.Model, x: np.ndarray, correct: int) -> np.ndarray:
    """Labels of which the model gets exactly `correct` right."""
    answers = np.asarray(model(x)).argmax(axis=-1)
    answers[correct:] = (answers[correct:] + 1) % 3
    return answers


def test_predict_equals_one_call_on_everything(model, x):
    np.testing.assert_allclose(predict(model, x, 7), model(x), atol=1e-6)


def test_accuracy_counts_the_largest_score():
    scores = np.array([[0.1, 2, 1], [5, 1, 1], [0, 0, 1], [0, 1, 0]])
    assert accuracy(scores, np.array([1, 0, 2, 2])) == 0.75
    assert accuracy(scores, np.array([[1], [0], [2], [2]])) == 0.75


def test_relative_difference():
    reference = np.array([1.0, -4.0])
    assert relative_difference(reference, reference) == 0
    assert relative_difference(reference, np.array([1.0, -3.0])) == 0.25
    assert relative_difference(np.zeros(2), np.array([0.5, 0])) == 0.5


def test_a_row_for_a_model(model, x, tmp_path):
    evaluation = Evaluation(
        x, labels_with(model, x, 21), tmp_path / "new" / "folder"
    )
    scores = evaluation.add_model("original", model)
    np.testing.assert_allclose(scores, model(x), atol=1e-6)
    row = evaluation["original"]
    assert row.accuracy == pytest.approx(0.7)
    assert row.params == model.count_params()
    assert row.macs == 4 * 4 * 9 * 8 + 8 * 3
    assert row.bytes is None and row.latency is None and row.file is None


def test_the_costs_of_a_masked_model_are_those_of_its_compact_one(
    model, x, tmp_path
):
    masked = kprune.prune(model, reduce={"macs": 0.5})
    evaluation = Evaluation(x, labels_with(model, x, 30), tmp_path)
    evaluation.add_model("masked", masked)
    compact = kprune.rebuild(masked)
    assert evaluation["masked"].params == compact.count_params()


def test_a_row_for_a_file_is_measured_on_the_file(model, x, tmp_path):
    y = labels_with(model, x, 24)
    evaluation = Evaluation(x, y, tmp_path)
    row = evaluation.add_file("TFLite", model, "model.tflite")
    path = tmp_path / "model.tflite"
    assert row.bytes == path.stat().st_size and row.file == "model.tflite"
    runtime = open_runtime(path)
    scores = np.concatenate(
        [
            runtime.run({runtime.inputs[0].name: image[None]})[
                runtime.outputs[0].name
            ]
            for image in x
        ]
    )
    assert row.accuracy == np.mean(scores.argmax(-1) == y)
    assert row.difference == pytest.approx(
        np.abs(scores - model(x)).max() / np.abs(model(x)).max(), abs=1e-7
    )
    assert row.difference < 1e-5 and row.agreement == 1


def test_int8_differs_and_says_how_much(model, x, tmp_path):
    evaluation = Evaluation(x, labels_with(model, x, 30), tmp_path)
    row = evaluation.add_file(
        "int8", model, "int8.tflite", quantize="int8", calibration=x
    )
    assert 1e-4 < row.difference < 0.2
    assert row.agreement == row.accuracy  # every label is what Keras answers


@pytest.mark.slow
def test_latency_fills_the_rows_of_runtime_files(model, x, tmp_path):
    evaluation = Evaluation(x, labels_with(model, x, 30), tmp_path)
    evaluation.measure_latency(seconds=0)  # no file, nothing to do
    evaluation.add_model("original", model, "original.tflite")
    evaluation.add_model("saved", model, "saved.keras")
    evaluation.measure_latency(seconds=0.01)
    assert evaluation["original"].latency > 0
    assert evaluation["original"].bytes > 0
    assert (
        evaluation["saved"].latency is None
        and evaluation["saved"].bytes is None
    )
    evaluation.add_file("TFLite", model, "model.tflite")
    evaluation.measure_latency(seconds=0.05)
    assert evaluation["TFLite"].latency > 0
    assert (tmp_path / "saved.keras").exists()


def test_an_unknown_row_names_the_known_ones(model, x, tmp_path):
    evaluation = Evaluation(x, np.zeros(30, int), tmp_path)
    evaluation.add_model("original", model)
    with pytest.raises(KeyError, match=r"'compact'.*'original'"):
        evaluation["compact"]


def test_table_and_markdown_hold_the_rows(model, x, tmp_path):
    evaluation = Evaluation(x, labels_with(model, x, 15), tmp_path)
    evaluation.add_model("original", model)
    assert evaluation.table("Title").title == "Title"
    assert "| original | 1.18 k | 107 | 50.00 % |" in evaluation.markdown()
