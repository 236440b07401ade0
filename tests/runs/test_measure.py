"""Metrics are compared in the direction that Keras says, or else their name."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from kprune.data.source import Source
from kprune.runs.logs import numbers
from kprune.runs.measure import metrics
from kprune.runs.measure import minimised
from kprune.runs.measure import outputs_of

LOWER = (
    "mape",
    "msle",
    "kl_divergence",
    "poisson",
    "hinge",
    keras.metrics.LogCoshError(),
    "binary_crossentropy",
    keras.losses.cosine_similarity,  # negative in Keras
    keras.losses.Huber(name="quality"),
    keras.metrics.MeanSquaredError(name="score"),
    keras.metrics.FalseNegatives(name="missed"),
)
HIGHER = (
    "accuracy",
    keras.metrics.CosineSimilarity(name="likeness"),
    keras.metrics.Recall(name="found"),
    keras.metrics.BinaryAccuracy(name="errors_avoided"),
)


@pytest.mark.parametrize("outputs", [1, 2])
def test_the_direction_is_that_of_the_keras_metric(outputs):
    x = keras.Input((2,))
    heads = [keras.layers.Dense(1, name=f"head{i}")(x) for i in range(outputs)]
    model = keras.Model(x, heads)
    y = [np.ones((4, 1), "float32")] * outputs
    metrics = [[*LOWER, *HIGHER], *([[]] * (outputs - 1))]
    model.compile("sgd", ["mse"] * outputs, metrics=metrics)
    found = model.evaluate(
        np.ones((4, 2)), y, batch_size=4, verbose=0, return_dict=True
    )
    names = {name for name in found if not name.endswith("loss")}
    higher = {"accuracy", "likeness", "found", "errors_avoided"}
    if outputs > 1:
        higher = {f"head0_{name}" for name in higher}
    assert len(names) == len(LOWER) + len(HIGHER)
    assert {n for n in names if not minimised(n, model)} == higher
    assert minimised("loss", model)


@pytest.mark.parametrize(
    ("lower", "names"),
    [
        (True, "val_loss mape head_mse_1 KLD false_negatives_3 top_1_error"),
        (True, "rmse perplexity mean_absolute_percentage_error kl_divergence"),
        (
            False,
            "accuracy weekly_sales auc f1_score cosine_similarity agreement",
        ),
    ],
)
def test_names_alone_tell_the_direction_too(lower, names):
    assert [minimised(name) for name in names.split()] == [lower] * len(
        names.split()
    )


def test_models_of_one_batch_size_are_measured():
    inputs = keras.Input(batch_shape=(4, 6))
    outputs = keras.layers.Flatten()(keras.ops.reshape(inputs, (4, 3, 2)))
    model = keras.Model(inputs, outputs)
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).random((10, 6), "float32")
    np.testing.assert_array_equal(outputs_of(model, x)[0], x)
    found = metrics(model, Source((x, np.zeros_like(x)), 32, model))
    assert found["loss"] == pytest.approx(np.mean(x[:8] ** 2), rel=1e-5)


def test_logs_are_one_number_for_each_name(caplog):
    logs = {
        "loss": np.float32(0.5),
        "f1": keras.ops.convert_to_tensor([0.25, 0.75]),
        "table": np.array([[1, 2], [3, 6]]),
        "count": 3,
        "word": "0.5",
        "none": None,
        "empty": np.zeros(0),
    }
    for _ in range(2):
        assert numbers(logs) == {"loss": 0.5, "f1": 0.5, "table": 3, "count": 3}
    told = [r.getMessage() for r in caplog.records]
    assert [text.split("'")[1] for text in told] == ["word", "none", "empty"]
    assert numbers(None) == {}
