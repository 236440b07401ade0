"""Which samples calibrate, which ones tell how good a file is, and doubts."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from export import zoo
from keras import layers

import kprune
from kprune.data.expectations import unexpected
from kprune.export.api import _check_difference
from kprune.export.differences import compare_outputs
from kprune.export.evidence import evidence
from kprune.export.signature import ModelSignature


def numbered(count: int) -> np.ndarray:
    """Samples each of which is its number everywhere."""
    x = np.arange(count, dtype="float32")
    return np.broadcast_to(x[:, None], (count, 3)).copy()


@pytest.fixture(scope="module")
def signature():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    return ModelSignature(model)


@pytest.mark.parametrize(("count", "held"), [(50, 10), (256, 51), (5000, 64)])
def test_no_sample_serves_for_both(signature, count, held):
    found = evidence(signature, "int8", 64, numbered(count))
    calibrated, inputs = (
        {int(row[0]) for row in array[0]}
        for array in (found.calibration, found.inputs)
    )
    assert len(inputs) == held and not calibrated & inputs
    assert len(calibrated) == min(count, 512 + 64) - held
    # Evenly, for data often come class by class.
    assert min(inputs) == 0 and max(inputs) == count - 1
    assert max(calibrated) > 0.98 * (count - 2)
    assert found.origin == "calibration data held back" and found.notes == ()


def test_few_samples_serve_for_both_and_the_report_says_so(signature):
    found = evidence(signature, "int8", 64, numbered(49))
    assert len(found.calibration[0]) == len(found.inputs[0]) == 49
    assert found.origin == "calibration data"
    (note,) = found.notes
    assert "on the calibration data itself" in note


def test_validation_data_are_verified_on(signature):
    given, other = numbered(40), -numbered(40)
    found = evidence(signature, "int8", 16, given, other)
    np.testing.assert_array_equal(found.calibration[0], given)
    assert len(found.inputs[0]) == 16
    assert found.inputs[0].max() == 0 and found.inputs[0].min() == -39
    assert found.origin == "validation data" and found.notes == ()
    found = evidence(signature, "int8", 64, numbered(900), other)
    assert len(found.calibration[0]) == 512


def test_formats_without_calibration_hold_nothing_back(signature):
    found = evidence(signature, "dynamic", 64, numbered(100))
    rows = found.inputs[0][:, 0]
    assert len(rows) == 64 and rows[0] == 0 and rows[-1] == 99
    assert found.origin == "calibration data" and found.notes == ()
    stream = [numbered(100)[:50], numbered(100)[50:]]
    found = evidence(signature, "dynamic", 64, iter(stream))
    assert found.inputs[0][-1, 0] == 99
    assert evidence(signature, None, 8).origin == "random inputs"


def test_what_was_trained_on_is_called_so(signature):
    data = numbered(100), np.zeros(100)
    found = evidence(signature, "qat", 64, training=data)
    assert found.origin == "training data"
    assert "on the training data itself" in found.notes[0]
    found = evidence(signature, "dynamic", 64, training=data)
    assert "on the training data itself" in found.notes[0]
    # Calibration data may be part of it.
    found = evidence(signature, "qat", 64, numbered(100), training=data)
    assert found.origin == "calibration data held back"
    assert "was trained on `data`" in found.notes[0]
    found = evidence(signature, "qat", 64, numbered(40), training=data)
    assert found.origin == "calibration data"
    found = evidence(signature, "qat", 64, None, numbered(9), data)
    assert found.origin == "validation data" and found.notes == ()


def test_the_report_measures_on_what_was_held_back(tmp_path):
    model, x = zoo.conv_net(), zoo.images(60)
    report = kprune.export(model, tmp_path / "m.tflite", "int8", x)
    assert report.samples == 12
    assert "12 samples of calibration data held back" in str(report)
    report = kprune.export(
        model,
        tmp_path / "m.tflite",
        "int8",
        x,
        validation=zoo.images(5, seed=9),
    )
    assert report.samples == 5 and report.data == "validation data"


# -- data that the model was not made for ------------------------------------

PIXELS = np.random.default_rng(0).integers(0, 256, (64, 6, 6, 3))
RAW = PIXELS.astype("float32")
UNIT = RAW / 255
NORMAL = (RAW - RAW.mean()) / RAW.std()


def network(first: layers.Layer | None = None) -> keras.Model:
    keras.utils.set_random_seed(0)
    rows = [
        keras.Input((6, 6, 3)),
        layers.Conv2D(4, 3),
        layers.GlobalMaxPooling2D(),
    ]
    if first is not None:
        rows.insert(1, first)
    return keras.Sequential(rows)


def normalization(x: np.ndarray) -> layers.Layer:
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return layers.Normalization(mean=mean, variance=variance)


def trained_on(x: np.ndarray) -> keras.Model:
    """A network whose only statistics are those behind its first convolution."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            layers.Conv2D(4, 3),
            layers.BatchNormalization(momentum=0.0),
        ]
    )
    model(x, training=True)
    return model


@pytest.mark.parametrize(
    ("first", "right", "wrong"),
    [
        (lambda: layers.Rescaling(1 / 255), [RAW], [UNIT, NORMAL]),
        (lambda: layers.Rescaling(1 / 127.5, offset=-1), [RAW], [UNIT, NORMAL]),
        (lambda: layers.Rescaling(2.0, offset=-1), [UNIT], [RAW]),
        (lambda: normalization(UNIT), [UNIT], [RAW, NORMAL]),
        (lambda: normalization(RAW), [RAW], [UNIT, NORMAL]),
        (lambda: normalization(NORMAL), [NORMAL], [RAW]),
        (lambda: None, [RAW, UNIT, NORMAL], []),
    ],
    ids=["1/255", "1/127.5", "2", "unit", "raw", "normal", "nothing"],
)
def test_pixels_in_another_range_are_told(first, right, wrong):
    layer = first()
    model = network(layer)
    assert [unexpected(model, [x]) for x in right] == [[]] * len(right)
    for x in wrong:
        (told,) = unexpected(model, [x])
        assert layer.name in told and "as in training" in told


@pytest.mark.parametrize(
    ("made_for", "wrong"), [(NORMAL, RAW), (RAW, NORMAL), (RAW, UNIT)]
)
def test_batch_normalisation_tells_too(made_for, wrong):
    model = trained_on(made_for)
    assert unexpected(model, [made_for]) == []
    assert "batch_normalization" in unexpected(model, [wrong])[0]


def test_averages_of_a_few_steps_are_told_from_another_range():
    keras.utils.set_random_seed(0)
    x = NORMAL / 10
    model = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            layers.Conv2D(4, 3),
            layers.BatchNormalization(),
        ]
    )
    model.compile("sgd", "mse")
    model.fit(x, np.zeros((len(x), 4, 4, 4)), len(x), epochs=9, verbose=0)
    assert unexpected(model, [x]) == []
    assert len(unexpected(model, [100 * x])) == 1


def test_a_network_inside_one_that_rescales_is_not_asked():
    inputs = keras.Input((6, 6, 3))
    inner = trained_on(UNIT)
    model = keras.Model(inputs, inner(layers.Rescaling(1 / 255)(inputs)))
    assert unexpected(model, [RAW]) == []
    assert len(unexpected(model, [UNIT])) == 1


def test_models_of_several_inputs_tell_nothing():
    model = zoo.two_inputs("list")
    assert unexpected(model, [RAW, RAW]) == []


def test_an_export_warns_and_the_report_repeats_it(tmp_path, caplog):
    model = network(normalization(NORMAL))
    report = kprune.export(model, tmp_path / "m.tflite", "int8", RAW)
    assert "do not look like the model" in caplog.text
    assert "do not look like the model" in str(report)
    caplog.clear()
    report = kprune.export(model, tmp_path / "m.tflite", "int8", NORMAL)
    assert "look like" not in caplog.text + str(report)


@pytest.mark.parametrize("trained", [False, True])
def test_the_difference_of_a_file_that_was_trained_is_told_as_such(
    caplog, trained
):
    difference = compare_outputs([np.ones((2, 3))], [np.full((2, 3), 1.4)])
    _check_difference(difference, 1.0, Path("m.tflite"), trained)
    (told,) = caplog.messages
    assert "m.tflite differs from Keras by 40 %" in told
    assert ("trained further" in told) == trained
