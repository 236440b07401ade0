"""Latency tables as files."""

import json

import pytest

from kprune.latency import LatencyTable
from kprune.latency import load
from kprune.latency.device import device_name
from kprune.latency.device import table_path
from kprune.latency.layout import Layout
from kprune.latency.layout import Placed
from kprune.latency.layout import Width


def filled():
    table = LatencyTable("a phone", dtype="int8", threads=2)
    table.steps["CONV_2D"] = (8, 16)
    table.overhead = 0.0004
    table.add("CONV_2D() x", 8, 16, 0.5)
    table.add("CONV_2D() x", 8, 32, 0.75)
    table.add("ADD() y", 0, 0, 0.01)
    width = Width(3.0, {0: 1.0, 2: 49.0})
    table.add_model("f00", Layout((Placed("CONV_2D() x", None, width),)))
    table.add_whole("f00", [3, 4], 1.25)
    return table


def test_round_trip(tmp_path):
    before = filled()
    before.save(tmp_path / "table.json")
    after = load(tmp_path / "table.json")
    assert vars(after) == vars(before)
    assert after.points("CONV_2D() x") == [(8, 16, 0.5), (8, 32, 0.75)]
    assert after.layout("f00").operators[0].writes.slopes == {0: 1.0, 2: 49.0}
    assert "a phone" in str(after) and "2 threads" in str(after)


def test_the_fastest_of_several_measurements_counts():
    table = filled()
    table.add("ADD() y", 0, 0, 0.02)
    table.add("ADD() y", 0, 0, 0.005)
    assert table.at("ADD() y", 0, 0) == 0.005
    table.add_whole("f00", [3, 4], 1.0)
    table.add_whole("f00", [3, 4], 2.0)
    assert table.wholes("f00") == [([3, 4], 1.0)]


def test_a_failed_write_leaves_the_file(tmp_path):
    path = tmp_path / "table.json"
    filled().save(path)
    before = path.read_bytes()
    broken = filled()
    broken.device = {1, 2}  # no JSON
    with pytest.raises(TypeError):
        broken.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["table.json"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"kprune_latency": 99}',
        '{"kprune_latency": 1, "device": "x"}',
    ],
)
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"is no latency table.*profile"):
        load(path)


def test_broken_entries_are_refused(tmp_path):
    path = tmp_path / "table.json"
    filled().save(path)
    data = json.loads(path.read_text())
    data["operators"]["ADD() y"] = [[0, 0]]
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match="is no latency table"):
        load(path)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"runtime": "onnx"}, "runtime='onnx'.*'litert'"),
        ({"dtype": "float16"}, "dtype='float16'.*'float32', 'int8'"),
        ({"threads": 0}, "whole number, 1 or more, as `threads`.*=0"),
        ({"threads": True}, "whole number, 1 or more, as `threads`.*=True"),
    ],
)
def test_settings_are_checked(setting, message):
    with pytest.raises(ValueError, match=message):
        LatencyTable(**setting)


def test_each_setting_has_a_file_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    paths = {
        table_path("litert", dtype, threads)
        for dtype in ("float32", "int8")
        for threads in (1, 2)
    }
    assert len(paths) == 4
    assert all(" " not in path.name for path in paths)
    assert device_name().strip(", ")
