"""reduce={"ram": ...}, held against the plan of the file that is exported."""

import fake_device
import keras
import numpy as np
import pytest
from keras import layers

import kprune
from kprune.allocation import Ram
from kprune.export.micro.arena import estimate_arena
from kprune.latency import Latency
from kprune.latency import LatencyTable
from kprune.latency import runtimes
from kprune.latency.allocation import ram as module
from kprune.latency.conversion import Conversion
from kprune.latency.conversion import file_of
from kprune.latency.memory import Memory
from kprune.latency.profiling import fill
from kprune.report.memory import memory_peak
from kprune.report.memory import memory_text

pytestmark = pytest.mark.tensorflow


def block(x, width, name):
    y = layers.Conv2D(width, 3, padding="same", activation="relu", name=name)(x)
    y = layers.Conv2D(width, 3, padding="same")(y)
    return layers.Activation("relu")(layers.Add()([x, y]))


def network():
    """Two blocks at 16x16 that are equally high, then small and wide layers."""
    x = inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(32, 3, padding="same", activation="relu", name="stem")(x)
    x = block(block(x, 32, "one"), 32, "two")
    x = layers.Conv2D(24, 3, strides=4, activation="relu", name="low")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(4)(x))


@pytest.fixture(scope="module")
def conversions():
    return {}


@pytest.fixture(autouse=True)
def once(conversions, monkeypatch):
    """Converts the network once per number format, not once per test."""

    def converted(masked, *formats):
        if formats not in conversions:
            conversions[formats] = Conversion(masked, *formats)
        return conversions[formats]

    monkeypatch.setattr(module, "Conversion", converted)


def exported(model):
    return file_of(kprune.rebuild(model), "int8", "int8")


@pytest.fixture(scope="module")
def unpruned():
    return exported(kprune.wrap(network()))


def alive(masked):
    return {n: int(m.sum()) for n, m in kprune.masks(masked).items()}


def test_the_plan_of_the_exported_file_shrinks(unpruned):
    masked = kprune.prune(network(), reduce={"ram": 0.4})
    before, after = map(estimate_arena, (unpruned, exported(masked)))
    assert 0.5 * before.planned < after.planned <= 0.6 * before.planned
    kept = alive(masked)
    # Both blocks are at the peak, and the layers behind them are not.
    assert kept["low"] == 24
    assert max(kept["one"], kept["two"], kept["stem"]) < 32


def test_moments_are_the_arena_of_any_width(unpruned, conversions):
    kprune.prune(network(), reduce={"ram": 0.1})
    (conversion,) = conversions.values()
    memory = Memory(conversion)
    rng = np.random.default_rng(0)
    full = estimate_arena(unpruned)
    rows = rng.integers(1, np.array(conversion.kept[0]) + 1, (5, 4))
    for row, moments in zip(rows, memory.moments(rows), strict=True):
        arena = estimate_arena(conversion.whole(row))
        # As high as the plan in the unpruned model.
        share = moments.max() / full.planned
        assert share == pytest.approx(arena.peak / full.peak)
        assert memory(row) == arena.planned


def test_a_peak_at_the_output_counts():
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(32, 3, padding="same", name="hidden")(x)
    outputs = layers.Conv2DTranspose(8, 4, strides=4, name="last")(x)
    masked = kprune.wrap(keras.Model(inputs, outputs))
    conversion = Conversion(masked, "int8", "int8")
    memory = Memory(conversion)
    for kept in (np.array([16]), np.array([2])):
        peak = estimate_arena(conversion.whole(kept)).peak
        assert memory.moments(kept[None]).max() == pytest.approx(peak, rel=0.01)


def test_ram_and_macs_together(unpruned):
    reduce = {"ram": 0.3, "macs": 0.6}
    masked = kprune.prune(network(), reduce=reduce)
    before, after = map(estimate_arena, (unpruned, exported(masked)))
    assert after.planned <= 0.7 * before.planned
    assert kprune.cost(masked).macs <= 0.4 * kprune.cost(network()).macs


@pytest.mark.slow
def test_ram_and_latency_together(unpruned):
    table = LatencyTable("a fake", dtype="int8")
    fill(table, network(), fake_device.milliseconds)
    masked = kprune.prune(
        network(), "l1", {"latency": 0.2, "ram": 0.4}, Latency(table)
    )
    after = exported(masked)
    planned = estimate_arena(unpruned).planned
    assert estimate_arena(after).planned <= 0.6 * planned
    assert kprune.latency.predict(masked, table) <= 0.8 * (
        kprune.latency.predict(network(), table)
    )


def test_sram_of_an_npu(unpruned):
    pytest.importorskip("ethosu.vela", reason="needs the extra ethos")
    name = "ethos-u55-128"
    masked = kprune.prune(
        network(), reduce={"ram": 0.4}, allocation=Ram(runtime=name)
    )
    before, after = map(runtimes.get(name).memory, (unpruned, exported(masked)))
    assert after <= 0.6 * before * 1.01


def test_what_cannot_be_is_said():
    with pytest.raises(
        ValueError, match=r"'litert' does not report its memory"
    ):
        Ram(runtime="litert")
    with pytest.raises(ValueError, match=r"runs int8\. Received: dtype='float"):
        Ram("float32", "ethos-u55-128")
    with pytest.raises(ValueError, match=r'"ram": 0\.5.*what each channel'):
        kprune.prune(network(), reduce={"ram": 0.5}, allocation="greedy_loss")
    with pytest.raises(ValueError, match=r"Cannot remove 99\.9% of the ram"):
        kprune.prune(network(), reduce={"ram": 0.999})


def test_the_peak_is_found_in_both_blocks(unpruned):
    size = 16 * 16 * 32
    data = memory_peak(network())
    # A convolution while the shortcut waits, or the sum of both, in two blocks.
    assert data["peak"] == 3 * size == estimate_arena(unpruned).peak
    kinds = [m["operator"].split()[0] for m in data["moments"]]
    assert kinds.count("ADD") == 2 and kinds.count("CONV_2D") == 2
    for moment in data["moments"]:
        assert [t["bytes"] for t in moment["tensors"]] == 3 * [size]
    text = memory_text(data)
    assert f"reached {len(kinds)} times" in text and "while ADD" in text
