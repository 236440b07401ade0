"""`kprune latency`, and pruning for a table, on a device whose times are known."""

from __future__ import annotations

import json

import fake_device
import keras
import numpy as np
import pytest
from cli.running import run
from cli.running import small

import kprune
from kprune.commands.line import CommandLine
from kprune.commands.pruning import Pruning
from kprune.commands.samples import find_data
from kprune.latency import LatencyTable
from kprune.latency import device
from kprune.latency import load
from kprune.latency import predict
from kprune.latency import profiling
from kprune.latency.profiling import fill
from kprune.latency.runtimes.litert import LiteRT
from kprune.report import units
from kprune.report.memory import memory_peak

pytestmark = pytest.mark.tensorflow

COMMANDS = ("profile", "files", "read", "show")


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return small(24, 32)


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.keras"
    model.save(path)
    return path


@pytest.fixture(scope="module")
def table(model, tmp_path_factory):
    """The path of a table that knows the model."""
    made = LatencyTable("a fake")
    fill(made, model, fake_device.milliseconds)
    path = tmp_path_factory.mktemp("table") / "fake.json"
    made.save(path)
    return path


@pytest.fixture(autouse=True)
def fake(monkeypatch, tmp_path):
    """Nothing here depends on what this machine is, or has in its cache."""
    monkeypatch.setattr(
        LiteRT, "measure", staticmethod(fake_device.milliseconds)
    )
    monkeypatch.setattr(device, "table_path", lambda *a: tmp_path / "own.json")
    monkeypatch.setattr(
        profiling, "table_path", lambda *a: tmp_path / "own.json"
    )


def flat(text: str) -> str:
    return " ".join(text.split())


def test_help_lists_the_commands_and_shows_examples():
    result = run("latency", "--help")
    assert result.exit_code == 0
    for command in COMMANDS:
        assert command in result.stdout
        text = flat(run("latency", command, "--help").stdout)
        assert f"kprune latency {command}" in text.split("Example:")[1]
    assert "latency" in run("--help").stdout


def test_profile_prints_steps_and_a_prediction(saved, model, tmp_path):
    out = tmp_path / "t.json"
    result = run("latency", "profile", saved, "--table", out)
    assert result.exit_code == 0, result.output
    assert "CONV_2D reads channel by channel, writes 16" in result.stdout
    time = units.milliseconds(predict(model, load(out)))
    assert f"predicted for model.keras: {time}" in result.stdout
    assert load(out).models


def test_profile_keeps_this_machines_table(saved, tmp_path):
    result = run("latency", "profile", saved)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "own.json").is_file()
    assert "own.json" in result.stdout


def test_files_and_read(saved, model, tmp_path):
    folder = tmp_path / "phone"
    result = run("latency", "files", saved, folder, "--dtype", "int8")
    assert result.exit_code == 0, result.output
    count = len(list((folder / "files").iterdir()))
    assert f"wrote {count} files" in result.stdout
    out = tmp_path / "t.json"
    arguments = ("latency", "read", folder, "--device", "Fake 9", "--out", out)
    result = run(*arguments)
    assert result.exit_code == 1
    assert f"{count} are missing" in result.stderr
    logs = folder / "logs" / "threads-2"
    logs.mkdir(parents=True)
    for file in (folder / "files").iterdir():
        time = 1000 * fake_device.milliseconds(file.read_bytes())
        text = f"Inference timings in us: Init: 1, Inference (avg): {time}\n"
        (logs / f"{file.stem}.log").write_text(text)
    result = run(*arguments, "--threads", 2)
    assert result.exit_code == 0, result.output
    read = load(out)
    assert (read.device, read.dtype, read.threads) == ("Fake 9", "int8", 2)
    assert predict(model, read) > 0
    assert "Fake 9, litert, int8, 2 threads" in result.stdout


def test_show_lists_the_operators(table, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")  # does not count in a pipe
    result = run("latency", "show", table)
    assert result.exit_code == 0, result.output
    assert "a fake, litert, float32, 1 thread" in result.stdout
    for text in ("CONV_2D", "FULLY_CONNECTED", "MEAN", "time"):
        assert text in result.stdout
    assert "…" not in result.stdout
    told = run("latency", "show", table, "--json").stdout
    assert json.loads(told) == json.loads(table.read_text())
    assert run("latency", "show", table.with_name("no.json")).exit_code == 1


def test_prune_for_a_table(saved, table, model, tmp_path):
    out = tmp_path / "small.keras"
    result = run(
        "prune",
        saved,
        out,
        *("--reduce", "latency=0.4", "--latency-table", table),
    )
    assert result.exit_code == 0, result.output
    before = predict(model, load(table))
    expected = kprune.prune(
        model,
        reduce={"latency": 0.4},
        allocation=kprune.latency.Latency(table),
    )
    after = predict(expected, load(table))
    assert after <= 0.6 * before
    assert "predicted latency" in result.stdout
    for time in (before, after):
        assert units.milliseconds(time) in result.stdout
    shapes = [w.shape for w in kprune.rebuild(expected).weights]
    assert [w.shape for w in keras.saving.load_model(out).weights] == shapes
    told = run(
        *("prune", saved, tmp_path / "again.keras", "--json"),
        *("--reduce", "latency=0.4", "--latency-table", table),
    )
    assert json.loads(told.stdout)["predicted"] == {
        "before": {"latency": pytest.approx(before)},
        "after": {"latency": pytest.approx(after)},
    }


def test_prune_for_memory_shows_the_predicted_peak(saved, model, tmp_path):
    out = tmp_path / "small.keras"
    result = run("prune", saved, out, "--reduce", "ram=0.2")
    assert result.exit_code == 0, result.output
    assert "predicted RAM" in result.stdout
    for each in (model, keras.saving.load_model(out)):
        assert units.size(memory_peak(each)["planned"]) in result.stdout


def test_a_cut_for_a_table_counts_as_repaired(saved, table, x, tmp_path):
    np.save(tmp_path / "x.npy", x)
    data = find_data(tmp_path / "x.npy")
    work = Pruning(saved, tmp_path / "s.keras", data, CommandLine((), {}))
    for inner, repaired in (("output_error", True), ("global", False)):
        parts = {"allocation": kprune.latency.Latency(table, inner)}
        work.prune({"latency": 0.4}, parts, None, 1, None, None)
        assert work.repaired is repaired


def test_prune_for_this_machine(saved, tmp_path):
    out = tmp_path / "small.keras"
    result = run("prune", saved, out, "--reduce", "latency=0.4")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "own.json").is_file()


def test_prune_to_multiples(saved, tmp_path):
    out = tmp_path / "small.keras"
    result = run("prune", saved, out, "--round-to", 8)
    assert result.exit_code == 0, result.output
    compact = keras.saving.load_model(out)
    filters = [w.shape[-1] for w in compact.weights if len(w.shape) == 4]
    assert len(filters) == 2 and all(n % 8 == 0 for n in filters)


@pytest.mark.parametrize(
    "option", [("--round-to", 8), ("--reduce", "ram=0.2", "--dtype", "int8")]
)
def test_an_option_for_widths_changes_no_method(saved, x, tmp_path, option):
    np.save(tmp_path / "x.npy", x)
    asked = ("prune", saved, tmp_path / "s.keras", *option)
    run(*asked, "--data", tmp_path / "x.npy", "--run-dir", tmp_path / "runs")
    record = tmp_path / "runs" / "latest" / "run.json"
    parts = json.loads(record.read_text())["asked"]["parts"]
    assert "reconstruction" in json.dumps(parts["criterion"]).lower()
    assert "reconstruct" in json.dumps(parts["recover"])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--latency-table", "t.json"), "needs --reduce latency=0.5"),
        (("--runtime", "ethos-u55-128"), "latency=0.5 or ram=0.5"),
        (("--reduce", "ram=0.5", "--reduce", "ram=0.4"), "ram twice"),
        (("--round-to", 8, "--reduce", "latency=0.5"), "omit --round-to"),
        (("--round-to", 8, "--allocation", "rounds"), "expected one of global"),
        (("--round-to", 0), "--round-to"),
        (
            ("--round-to", 8, "--method", "hgs", "--data", "d.npz"),
            "has its own allocation",
        ),
    ],
)
def test_options_that_do_not_go_together(arguments, text):
    result = run("prune", "a.keras", "b.keras", *arguments)
    assert result.exit_code == 2
    assert text in flat(result.stderr.replace("│", ""))


def test_a_file_with_masks_is_pruned_for_memory(model, tmp_path):
    kprune.wrap(model).save(tmp_path / "masked.keras")
    out = tmp_path / "small.keras"
    result = run("prune", tmp_path / "masked.keras", out, "--reduce", "ram=0.2")
    assert result.exit_code == 0, result.output
    assert "predicted RAM" in result.stdout
