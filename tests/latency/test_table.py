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
from kprune.report.latency import latency_summary


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
    assert after.path == tmp_path / "table.json"
    assert vars(after) == {**vars(before), "path": after.path}
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
    with pytest.raises(ValueError, match=r"is not a latency table.*profile"):
        load(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"steps": {"conv_2d": [0, -3]}}, "steps"),
        ({"overhead": -5.0}, "overhead"),
        ({"overhead": float("nan")}, "NaN"),
        ({"overhead": float("inf")}, "Infinity"),
        ({"device": {"a": 1}}, "device"),
        ({"threads": 1.5}, "threads"),
        ({"runtime": "abacus"}, "abacus"),
        ({"runtime": "litert/x"}, "option"),
        ({"runtime": ""}, "name"),
        ({"operators": {"ADD() y": [[0, 0, 0]]}}, "operators"),
        ({"operators": {"ADD() y": [[0, -1, 1]]}}, "operators"),
        ({"operators": {"ADD() y": [[0, 1, True]]}}, "operators"),
        ({"models": {"a": {"operators": []}}}, "models"),
        ({"models": {"a": {"operators": [["b", [-1, []], None]], "whole": []}}}, "b"),
        ({"models": {"a": {"operators": [], "whole": [[[1.5], 1]]}}}, "models"),
    ],
)  # fmt: skip
def test_values_are_checked(tmp_path, change, said):
    path = tmp_path / "table.json"
    filled().save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(
        ValueError, match=rf"table\.json' is not a latency.*{said}"
    ) as e:
        load(path)
    assert "\n" not in str(e.value)


def test_the_summary_tells_the_time_of_all_channels():
    table = LatencyTable()
    table.add_model("abc", Layout(()))
    table.add_whole("abc", [24, 24], 0.95)
    table.add_whole("abc", [32, 32], 0.8)
    assert "0.800 ms unpruned" in latency_summary(table)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[" * 100_000, b'{"a": 1'])
def test_what_is_no_json_is_refused(tmp_path, content):
    path = tmp_path / "table.json"
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"table\.json' is not a latency table.*delete it, and"
    ):
        load(path)


@pytest.mark.parametrize("time", [0, -1.0, float("nan"), float("inf")])
def test_a_time_is_a_number_above_0(time):
    with pytest.raises(ValueError, match=r"milliseconds.*Received"):
        filled().add("ADD() y", 0, 0, time)


def test_broken_entries_are_refused(tmp_path):
    path = tmp_path / "table.json"
    filled().save(path)
    data = json.loads(path.read_text())
    data["operators"]["ADD() y"] = [[0, 0]]
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match="is not a latency table"):
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
