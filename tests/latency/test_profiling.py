"""Measurements are kept while measuring, by one process at a time."""

import re
import threading

import fake_device
import keras
import pytest
from keras import layers

import kprune
from kprune.latency import LatencyTable
from kprune.latency import profiling
from kprune.latency.layout import Layout
from kprune.latency.layout import fingerprint
from kprune.latency.runtimes.litert import LiteRT

pytestmark = pytest.mark.tensorflow


def network():
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(16, 3, name="a"),
            layers.Conv2D(8, 3, name="b"),
            layers.Flatten(),
            layers.Dense(4),
        ]
    )


class Device:
    """The device of known times; it breaks at one measurement."""

    def __init__(self, breaks=None):
        self.breaks = breaks
        self.measured = 0

    def measure(self, content, threads, runs, seconds):
        if self.measured == self.breaks:
            raise KeyboardInterrupt
        self.measured += 1
        return fake_device.milliseconds(content)


def profile(device, path, monkeypatch):
    monkeypatch.setattr(
        LiteRT, "measure", lambda _, *given: device.measure(*given)
    )
    return kprune.latency.profile(network(), table=path)


def test_a_run_that_is_stopped_goes_on(tmp_path, monkeypatch):
    whole, path = Device(), tmp_path / "table.json"
    expected = profile(whole, tmp_path / "whole.json", monkeypatch)
    first = Device(breaks=whole.measured - 2)
    with pytest.raises(KeyboardInterrupt):
        profile(first, path, monkeypatch)
    assert 0 < kprune.latency.load(path).size <= expected.size
    rest = Device()
    profile(rest, path, monkeypatch)
    # The time of nothing, steps and single operators are there already.
    assert rest.measured < 0.3 * whole.measured
    assert path.read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "table.json",
        "whole.json",
    ]


def test_a_killed_run_loses_seconds_only(tmp_path, monkeypatch):
    path = tmp_path / "table.json"
    monkeypatch.setattr(profiling, "SAVED_EVERY", 0.0)
    sizes = []

    class Watched(Device):
        def measure(self, *given):
            if path.exists():
                sizes.append(kprune.latency.load(path).size)
            return super().measure(*given)

    profile(Watched(), path, monkeypatch)
    assert len(set(sizes)) > 5 and sizes == sorted(sizes)


def test_a_second_writer_waits(tmp_path, caplog):
    path, order = tmp_path / "table.json", []

    def second():
        with profiling.one_writer(path):
            order.append("second")

    with profiling.one_writer(path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.3)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    assert "Another process is measuring" in caplog.text


def test_a_folder_or_a_damaged_file_is_not_measured_into(tmp_path, monkeypatch):
    device = Device()
    with pytest.raises(IsADirectoryError, match="it is a folder"):
        profile(device, tmp_path, monkeypatch)
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match=r"a\.json' is not a latency table"):
        profile(device, tmp_path / "a.json", monkeypatch)
    assert device.measured == 0


def test_a_table_of_another_device_is_not_added_to(tmp_path, monkeypatch):
    device, path = Device(), tmp_path / "phone.json"
    LatencyTable("Pixel 8").save(path)
    here = kprune.latency.runtimes.get("litert").device
    message = (
        rf"phone\.json'.*'Pixel 8'.*this is '{re.escape(here)}'.*write_files"
    )
    with pytest.raises(ValueError, match=message):
        profile(device, path, monkeypatch)
    assert device.measured == 0
    # A table without the version of the runtime is of this machine.
    LatencyTable(here.rpartition(", ")[0]).save(tmp_path / "old.json")
    assert profile(device, tmp_path / "old.json", monkeypatch).size > 0
    device = Device()
    # A model that it knows needs no measurement.
    table = LatencyTable("Pixel 8")
    name = fingerprint(kprune.trace(kprune.wrap(network())), "float32")
    table.add_model(name, Layout(()))
    table.add_whole(name, [16, 8], 1.0)
    table.save(path)
    assert profile(device, path, monkeypatch).device == "Pixel 8"
    assert device.measured == 0
