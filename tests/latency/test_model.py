"""Predictions, on a device whose times are known."""

import fake_device
import keras
import numpy as np
import pytest
from keras import layers

import kprune
from kprune.latency import LatencyModel
from kprune.latency import LatencyTable
from kprune.latency.conversion import Conversion
from kprune.latency.model import Curve
from kprune.latency.model import TimedCostModel
from kprune.latency.model import predict
from kprune.latency.profiling import fill

pytestmark = pytest.mark.tensorflow


def network():
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(40, 3, padding="same", name="stem")(x)
    y = layers.Conv2D(50, 3, padding="same", activation="relu", name="a")(x)
    y = layers.DepthwiseConv2D(3, padding="same")(y)
    y = layers.Conv2D(40, 1, name="b")(y)
    x = layers.Add()([x, y])
    y = layers.Conv2D(33, 3, strides=2, padding="same", name="c")(x)
    x = layers.Concatenate()([y, layers.MaxPooling2D(2)(x)])
    x = layers.Conv2D(36, 1, name="d")(x)
    x = layers.Flatten()(x)
    return keras.Model(inputs, layers.Dense(4)(x))


@pytest.fixture(scope="module")
def profiled():
    masked = kprune.wrap(network())
    table = LatencyTable("a fake")
    assert not fill(table, masked, fake_device.milliseconds)
    return masked, table, LatencyModel(kprune.trace(masked), table)


def test_steps_of_the_device_are_found(profiled):
    _, table, _ = profiled
    assert table.steps["CONV_2D"] == (1, 16)
    assert table.steps["DEPTHWISE_CONV_2D"][1] == 8
    assert table.overhead == pytest.approx(fake_device.OVERHEAD, rel=0.1)


@pytest.mark.slow
def test_prediction_is_the_time_of_the_compact_model(profiled):
    masked, table, latency = profiled
    graph = kprune.trace(masked)
    conversion = Conversion(masked, table.dtype)
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(6):
        kept = np.array([rng.integers(1, g.size + 1) for g in graph.prunable])
        real = fake_device.milliseconds(conversion._convert(kept))
        errors.append(abs(float(latency(kept)) / real - 1))
    # Kernels are exact; other operators lie on a line.
    assert max(errors) < 0.02


def test_many_counts_at_once_equal_one_by_one(profiled):
    _masked, _, latency = profiled
    rng = np.random.default_rng(1)
    kept = rng.integers(1, latency.sizes + 1, (7, len(latency.sizes)))
    together = latency(kept)
    assert together.shape == (7,)
    np.testing.assert_allclose(together, [latency(k) for k in kept])
    some = latency.each(kept, [0, 3])
    np.testing.assert_array_equal(some, latency.each(kept)[:, [0, 3]])


def test_masks_count_like_the_compact_model(profiled):
    masked, table, latency = profiled
    graph = kprune.trace(masked)
    before = predict(masked, table)
    assert before == pytest.approx(float(latency(latency.sizes)))
    masks = {g.name: np.arange(g.size) < g.size // 2 for g in graph.prunable}
    other = kprune.wrap(network())
    kprune.set_masks(other, masks)
    kept = latency.sizes // 2
    assert predict(other, table) == pytest.approx(float(latency(kept)))
    assert predict(other, table) < before


@pytest.mark.slow
def test_whole_models_set_the_factor(profiled):
    masked, _table, latency = profiled
    slower = LatencyTable("a slower fake")
    fill(
        slower,
        masked,
        lambda content, threads, runs, seconds: (
            fake_device.milliseconds(content) * (1 if runs <= 10 else 1.5)
        ),
    )
    other = LatencyModel(kprune.trace(masked), slower)
    ratio = float(other(other.sizes)) / float(latency(latency.sizes))
    assert ratio == pytest.approx(1.5)


def test_cost_model_has_the_latency_beside_macs(profiled):
    masked, _, latency = profiled
    graph = kprune.trace(masked)
    costs = TimedCostModel(graph, latency)
    assert costs.full["macs"] == kprune.cost(masked).macs
    assert costs.full["latency"] == pytest.approx(float(latency(latency.sizes)))


def test_known_models_are_not_measured_again(profiled):
    _masked, table, _ = profiled
    before = table.size

    def fails(*arguments):
        raise AssertionError("measured again")

    assert fill(table, kprune.wrap(network()), fails)
    assert table.size == before


def test_unknown_models_are_named():
    masked = kprune.wrap(network())
    with pytest.raises(
        ValueError, match=r"does not know model.*earlier version"
    ):
        LatencyModel(kprune.trace(masked), LatencyTable("empty"))


def test_read_widths_are_rounded_up_to_whole_steps():
    points = [(8, 1, 1.0), (16, 1, 2.0), (32, 1, 4.0)]
    curve = Curve(points, (32, 1), (8, 1))
    reads = np.array([1, 8, 9, 16, 17, 24, 25])
    np.testing.assert_allclose(
        curve(reads, np.ones(7, int)), [1, 1, 2, 2, 3, 3, 4]
    )


def test_operators_without_widths_have_one_time():
    curve = Curve([(0, 0, 0.25)], (0, 0), (1, 1))
    np.testing.assert_array_equal(
        curve(np.zeros(3, int), np.zeros(3, int)), [0.25] * 3
    )
