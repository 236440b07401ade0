"""Ethos-U, as Vela estimates it: predictions against Vela's whole models."""

import itertools
import sys

import keras
import numpy as np
import pytest
from keras import layers

import kprune
from kprune.latency import Latency
from kprune.latency import LatencyModel
from kprune.latency import LatencyTable
from kprune.latency import runtimes
from kprune.latency.context import designs
from kprune.latency.context import fill_in_context
from kprune.latency.conversion import file_of
from kprune.latency.layout import Layout
from kprune.latency.layout import Placed
from kprune.latency.layout import Width

pytest.importorskip("ethosu.vela", reason="needs the extra ethos")
pytestmark = pytest.mark.tensorflow

NAME = "ethos-u55-128"


def network():
    x = inputs = keras.Input((16, 16, 8))
    x = stem = layers.Conv2D(32, 3, padding="same", activation="relu")(x)
    x = layers.Conv2D(48, 3, padding="same", activation="relu")(x)
    x = layers.DepthwiseConv2D(3, padding="same")(x)
    x = layers.Conv2D(32, 1)(x)
    x = layers.Add()([x, stem])
    x = layers.Conv2D(24, 3, strides=2, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(4)(layers.Flatten()(x)))


@pytest.fixture(scope="module")
def masked():
    return kprune.wrap(network())


@pytest.fixture(scope="module")
def table(masked):
    table = LatencyTable("an NPU", NAME, "int8")
    return kprune.latency.profile(masked, NAME, table=table)


def exported(model):
    return file_of(kprune.rebuild(model), "int8", "int8")


@pytest.fixture(scope="module")
def unpruned(masked):
    return exported(masked)


def test_a_pruned_model_is_as_fast_as_predicted(table, unpruned):
    half = kprune.prune(
        network(), reduce={"latency": 0.4}, allocation=Latency(table)
    )
    vela = runtimes.get(NAME)
    real, before = vela.compile(exported(half)), vela.compile(unpruned)
    predicted = kprune.latency.predict(half, table)
    assert predicted == pytest.approx(real.milliseconds, rel=0.01)
    assert real.milliseconds <= 0.6 * before.milliseconds * 1.01
    assert real.sram < before.sram and real.flash < before.flash


def test_the_seventeenth_channel_is_seen(table, masked):
    latency = LatencyModel(kprune.trace(masked), table)
    group = int(np.argmax(latency.sizes == 48))
    kept = np.tile(latency.sizes, (4, 1))
    kept[:, group] = [16, 17, 24, 32]
    times = latency(kept)
    assert times[1] == times[2] > 1.1 * times[0]


def test_table_and_runtime_must_agree(table):
    Latency(table, runtime=NAME, dtype="int8")
    with pytest.raises(ValueError, match="runtime='ethos-u55-128', not"):
        Latency(table, runtime="ethos-u65-256")
    with pytest.raises(ValueError, match=r"runs int8\. Received: dtype='float"):
        kprune.latency.profile(network(), NAME, dtype="float32")


def test_configurations_are_velas():
    from ethosu.vela.architecture_features import Accelerator

    known = {n for n in runtimes.names() if n.startswith("ethos-")}
    assert known == set(Accelerator.member_list())
    runtime = runtimes.get("ethos-u65-256/Dedicated_Sram")
    assert runtime.memory_mode == "Dedicated_Sram"
    assert runtime.name == "ethos-u65-256/Dedicated_Sram"
    with pytest.raises(ValueError, match="mean 'ethos-u55-128'"):
        runtimes.get("ethos-u55-12")
    with pytest.raises(ValueError, match="'Sram_Only'"):
        runtimes.get("ethos-u55-128/Sram_only")


def test_a_memory_mode_changes_the_time(unpruned):
    times = [
        runtimes.get(name).measure(unpruned, 1, 1, 0.0)
        for name in (NAME, f"{NAME}/Sram_Only")
    ]
    assert times[0] != times[1]


def test_what_vela_refuses_is_an_error():
    with pytest.raises(RuntimeError, match="Vela cannot compile the model"):
        runtimes.get(NAME).measure(b"no model", 1, 1, 0.0)


def test_vela_leaves_the_process_as_it_was(unpruned, capfd):
    before = sys.getrecursionlimit(), sys.stdout
    sys.setrecursionlimit(before[0] + 7)
    try:
        runtimes.get(NAME).measure(unpruned, 1, 1, 0.0)
        assert sys.getrecursionlimit() == before[0] + 7
    finally:
        sys.setrecursionlimit(before[0])
    assert sys.stdout is before[1]
    print("heard")
    assert capfd.readouterr().out == "heard\n"


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ethosu.vela", None)
    with pytest.raises(ImportError, match=r"kprune\[ethos\]"):
        kprune.latency.profile(network(), NAME)


def test_no_widths_are_compiled_twice():
    class Two:
        layout = Layout((Placed("conv", None, Width(0.0, {0: 1.0})),))
        kept = (np.array([16]),)
        kind = staticmethod(lambda position: "CONV_2D")
        whole = staticmethod(lambda kept: bytes([*kept]))

    compiled = []

    def operators(content):
        compiled.append(content)
        return [float(content[0])]

    table = LatencyTable("an NPU", NAME, "int8")
    fill_in_context(table, "two", Two(), operators, 8, iter)
    assert sorted(compiled) == [b"\x08", b"\x10"]
    (key,) = table.keys
    assert table.points(key) == [(0, 8, 8.0), (0, 16, 16.0)]


def test_groups_that_meet_go_through_all_pairs():
    meet = [(0, 1), (1, 2), (0, 2), (2, 3)]
    sizes = np.array([16, 40, 24, 64])
    layout = Layout(
        tuple(
            Placed(f"{a}{b}", Width(0.0, {a: 1.0}), Width(0.0, {b: 1.0}))
            for a, b in meet
        )
    )
    rows = np.array(designs(layout, sizes, 8))
    assert (rows <= sizes).all() and (rows[0] == sizes).all()
    for a, b in meet:
        pairs = set(map(tuple, rows[:, [a, b]].tolist()))
        every = (range(8, sizes[n] + 1, 8) for n in (a, b))
        assert pairs == set(itertools.product(*every))
