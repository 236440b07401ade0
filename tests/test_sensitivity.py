"""Curves of loss and metrics against the share of a group removed."""

from __future__ import annotations

import builtins

import keras
import numpy as np
import pytest
from fitting import arrays
from fitting import loss
from fitting import small_net
from harness import randomise

import kprune
from kprune.sensitivity import Curve
from kprune.sensitivity import Sensitivity


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    model = small_net(8)
    randomise(model)
    model.compile("sgd", loss(), metrics=["accuracy"])
    return model


@pytest.fixture(scope="module")
def data():
    return arrays(40)


@pytest.fixture(scope="module")
def report(model, data):
    return kprune.sensitivity(model, data)


def test_baseline_is_the_model_itself(model, data, report):
    expected = model.evaluate(*data, verbose=0, return_dict=True)
    assert report.baseline == pytest.approx(expected, rel=1e-5)
    assert list(report.curves) == ["conv1", "conv3"]


def test_metrics_go_over_all_batches_of_any_size(data):
    net = small_net(8)
    randomise(net)
    # Not a mean over batches.
    net.compile(loss="mse", metrics=[keras.metrics.RootMeanSquaredError()])
    x, y = data
    y = keras.utils.to_categorical(y, net.output_shape[-1])
    parts = [(x[a:b], y[a:b]) for a, b in [(0, 3), (3, 30), (30, 40)]]
    baseline = kprune.sensitivity(net, parts, shares=[0.5]).baseline
    expected = net.evaluate(x, y, verbose=0, return_dict=True)
    assert baseline == pytest.approx(expected, rel=1e-5)


def test_a_metric_with_a_value_for_each_class_counts_as_their_mean(data):
    net = small_net(8)
    randomise(net)
    net.compile(loss="mse", metrics=[keras.metrics.F1Score()])
    x, y = data[0], keras.utils.to_categorical(data[1], 3)
    baseline = kprune.sensitivity(net, (x, y), shares=[0.5]).baseline
    expected = net.evaluate(x, y, verbose=0, return_dict=True)["f1_score"]
    assert baseline["f1_score"] == pytest.approx(np.mean(expected), rel=1e-5)


def test_points_against_pruned_and_rebuilt_models(model, data, report):
    curve = report.curves["conv1"]
    assert curve.removed.tolist() == list(range(8))
    for count in (3, 6):
        pruned = kprune.prune(model, allocation={"conv1": count / 8})
        small = kprune.rebuild(pruned)
        expected = small.evaluate(*data, verbose=0, return_dict=True)
        for metric, value in expected.items():
            assert curve.values[metric][count] == pytest.approx(value, rel=1e-4)


def test_between_the_points(report):
    curve = report.curves["conv3"]
    values = curve.values["loss"]
    assert curve.at(2 / 8) == pytest.approx(values[2])
    assert curve.at(2.5 / 8) == pytest.approx((values[2] + values[3]) / 2)
    rise = curve.increase()
    assert rise[0] == 0 and (np.diff(rise) >= 0).all()
    assert rise[-1] == pytest.approx(max(values.max() - values[0], 0))


def test_nothing_of_a_masked_model_changes(model, data):
    masked = kprune.wrap(model)
    kprune.set_masks(masked, {"conv1": [0, 0, 1, 1, 1, 1, 1, 1]})
    masked.evaluate(*data, verbose=0)
    weights = [np.array(w) for w in masked.get_weights()]
    metrics = masked.get_metrics_result()
    report = kprune.sensitivity(masked, data, shares=[0, 0.5])
    assert report.curves["conv1"].removed.tolist() == [2, 5]
    for before, after in zip(weights, masked.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert masked.get_metrics_result() == metrics


def test_fewer_samples(model, data):
    few = kprune.sensitivity(model, data, shares=[0.5], samples=5)
    counts = few.baseline["accuracy"] * 5
    assert counts == pytest.approx(round(counts), abs=1e-4)


def test_table(report):
    text = str(report)
    assert "loss by share of a group removed" in text
    assert "accuracy by share of a group removed" in text
    assert f"{report.baseline['loss']:.4g}" in text
    with pytest.raises(ValueError, match="Known names: 'loss', 'accuracy'"):
        report.table("recall")


def test_the_table_shows_what_was_measured_alone(data):
    net = small_net(5)
    net.compile("sgd", loss())
    shares = [0.2, 0.5, 0.9]
    report = kprune.sensitivity(net, data, shares=shares)
    curve = report.curves["conv1"]
    assert curve.removed.tolist() == [0, 1, 2, 4]
    header = [column.header for column in report.table().columns]
    assert header == ["group", "filters", "0%", "20%", "50%", "90%"]
    shown = [next(iter(column.cells)) for column in report.table().columns[2:]]
    assert shown == [f"{value:.4g}" for value in curve.values["loss"]]
    # Half of five is two filters; three were never removed.
    assert curve.measured(0.5) == curve.values["loss"][2]
    assert curve.measured(0.6) is None
    again = Sensitivity.from_config(report.get_config())
    assert str(again) == str(report)


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_plot(report, tmp_path, suffix):
    path = tmp_path / f"curves.{suffix}"
    report.plot(path, "accuracy")
    assert path.read_bytes()[:5] in (b"\x89PNG\r", b"<?xml")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_sixty_groups_have_sixty_distinguishable_lines():
    figure = pytest.importorskip("matplotlib.figure").Figure()
    curve = Curve(4, np.arange(3), {"loss": np.arange(3.0)})
    names = [f"group{n}" for n in range(60)]
    report = Sensitivity(dict.fromkeys(names, curve), {"loss": 0.0})
    axes = figure.subplots()
    report.draw(axes)
    *drawn, _ = axes.lines  # The last one is the baseline.
    looks = {(d.get_color(), d.get_linestyle(), d.get_marker()) for d in drawn}
    assert [d.get_label() for d in drawn] == names
    assert len(looks) == 60


def test_without_matplotlib(report, tmp_path, monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"kprune\[report\]"):
        report.plot(tmp_path / "curves.png")


@pytest.mark.parametrize("shares", [[], [1.0], [-0.1], ["half"]])
def test_bad_shares(model, data, shares):
    with pytest.raises(ValueError, match="from 0 to below 1"):
        kprune.sensitivity(model, data, shares=shares)


def test_needs_a_loss_and_data(model, data):
    with pytest.raises(ValueError, match="there are none"):
        kprune.sensitivity(model, None)
    with pytest.raises(ValueError, match="not compiled"):
        kprune.sensitivity(small_net(4), data)
