"""reduce={"latency": ...}, on a device whose times are known."""

import fake_device
import keras
import numpy as np
import pytest
from keras import layers

import kprune
from kprune.callbacks import PruneCallback
from kprune.latency import Latency
from kprune.latency import LatencyTable
from kprune.latency.conversion import file_of
from kprune.latency.profiling import fill
from kprune.latency.runtimes.litert import LiteRT

pytestmark = pytest.mark.tensorflow


def network():
    x = inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(32, 3, padding="same", activation="relu", name="a")(x)
    y = layers.Conv2D(64, 3, padding="same", activation="relu", name="b")(x)
    y = layers.Conv2D(32, 3, padding="same", name="c")(y)
    x = layers.Add()([x, y])
    x = layers.Conv2D(48, 3, strides=2, activation="relu", name="d")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10, name="head")(x))


@pytest.fixture(scope="module")
def table():
    table = LatencyTable("a fake")
    fill(table, network(), fake_device.milliseconds)
    return table


def real(model):
    """The fake device's time of the exported compact model."""
    content = file_of(kprune.rebuild(model), "float32", "float32")
    return fake_device.milliseconds(content)


@pytest.mark.parametrize("base", ["global", "uniform", "similarity"])
@pytest.mark.parametrize("share", [0.3, 0.6])
def test_target_is_met_on_the_device(table, base, share):
    criterion = "similarity" if base == "similarity" else "l1"
    before = real(kprune.wrap(network()))
    masked = kprune.prune(
        network(), criterion, {"latency": share}, Latency(table, base)
    )
    after = real(masked)
    assert after <= (1 - share) * before * 1.005
    predicted = kprune.latency.predict(masked, table)
    assert predicted == pytest.approx(after, rel=0.01)


def test_faster_at_the_same_score_than_by_macs(table):
    timed = kprune.prune(
        network(), reduce={"latency": 0.5}, allocation=Latency(table)
    )
    counted = kprune.prune(network(), reduce={"macs": 0.5})
    assert real(timed) < real(counted)


def test_weakest_filters_go_first(table):
    model = network()
    masked = kprune.prune(
        model, "l1", {"latency": 0.4}, allocation=Latency(table)
    )
    scores = kprune.criteria.score_groups("l1", kprune.trace(model).prunable)
    cut = 0
    for name, mask in kprune.masks(masked).items():
        gone = mask == 0
        if gone.any():
            cut += 1
            assert scores[name][gone].max() <= scores[name][~gone].min()
    assert cut


def test_callback_gets_there_step_by_step(table):
    masked = kprune.wrap(network())
    masked.compile("sgd", "mse")
    x = np.zeros((32, 8, 8, 1), "float32")
    history = masked.fit(
        x,
        np.zeros((32, 10), "float32"),
        epochs=4,
        verbose=0,
        callbacks=[
            PruneCallback(
                reduce={"latency": 0.5},
                allocation=Latency(table),
                schedule=kprune.Linear(begin=0, end=3),
            )
        ],
    )
    removed = history.history["pruned_latency"]
    assert removed == sorted(removed)
    assert removed[-1] >= 0.5
    assert 0 < removed[0] < 0.5


def test_latency_and_macs_together(table):
    masked = kprune.prune(
        network(),
        reduce={"latency": 0.3, "macs": 0.7},
        allocation=Latency(table),
    )
    assert kprune.cost(masked).macs <= 0.3 * kprune.cost(network()).macs
    assert real(masked) <= 0.71 * real(kprune.wrap(network()))


def test_table_from_a_file(table, tmp_path):
    table.save(tmp_path / "table.json")
    reduce = {"latency": 0.4}
    model = network()
    one = kprune.prune(model, reduce=reduce, allocation=Latency(table))
    two = kprune.prune(
        model, reduce=reduce, allocation=Latency(tmp_path / "table.json")
    )
    np.testing.assert_equal(kprune.masks(one), kprune.masks(two))


def test_without_a_table_this_machine_is_measured(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(
        LiteRT, "measure", staticmethod(fake_device.milliseconds)
    )
    masked = kprune.prune(network(), reduce={"latency": 0.3})
    assert real(masked) <= 0.71 * real(kprune.wrap(network()))
    (file,) = (tmp_path / "kprune" / "latency").iterdir()
    assert kprune.latency.load(file).size > 0


@pytest.mark.slow
def test_a_runtime_of_ones_own_is_measured(monkeypatch, tmp_path):
    registry = kprune.latency.runtimes.base.registry
    monkeypatch.setattr(registry, "_factories", {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kprune.latency.runtimes.register("board")(fake_device.milliseconds)
    allocation = Latency(runtime="board")
    kprune.prune(network(), reduce={"latency": 0.3}, allocation=allocation)
    (file,) = (tmp_path / "kprune" / "latency").iterdir()
    assert kprune.latency.load(file).runtime == "board"
    with pytest.raises(ValueError, match=r"runtime='bord'.*mean 'board'"):
        kprune.latency.profile(network(), runtime="bord")


@pytest.mark.slow
def test_profile_keeps_a_table_per_setting(monkeypatch, tmp_path):
    monkeypatch.setattr(
        LiteRT, "measure", staticmethod(fake_device.milliseconds)
    )
    path = tmp_path / "tables" / "mine.json"
    table = kprune.latency.profile(network(), table=path)
    assert kprune.latency.load(path).size == table.size
    with pytest.raises(ValueError, match=r"dtype='float32', not dtype='int8'"):
        kprune.latency.profile(network(), dtype="int8", table=path)


def test_scripts_are_told_what_is_wrong(table):
    with pytest.raises(ValueError, match="says what each channel is worth"):
        kprune.prune(
            network(), reduce={"latency": 0.5}, allocation="greedy_loss"
        )
    with pytest.raises(
        ValueError, match=r"Cannot remove 99\.0% of the latency"
    ):
        kprune.prune(
            network(), reduce={"latency": 0.99}, allocation=Latency(table)
        )
    other = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Conv2D(8, 3), layers.Conv2D(4, 3)]
    )
    with pytest.raises(ValueError, match="does not know model"):
        kprune.prune(other, reduce={"latency": 0.5}, allocation=Latency(table))
