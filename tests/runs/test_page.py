"""The report of a run can be read anywhere, and says what the record says."""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET

import pytest
from cli.running import assert_fails
from cli.running import run as command

from kprune.report.plots import frontier
from kprune.report.run import quality

CHROMIUM = os.environ.get("KPRUNE_CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "google-chrome"))), None
)


def page(root):
    return (root / "latest" / "report.html").read_text("utf-8")


def words(text):
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", text)))


def test_the_report_stands_alone_and_says_what_came_out(one_shot):
    root, _, _, run = one_shot
    text = page(root)
    # Addresses in attributes would be loaded; those of name spaces are not.
    assert not re.search(
        r"(?:src|href)=.http|url\(|<script|<link|@import", text
    )
    assert len(text) < 60_000
    for mode in ("prefers-color-scheme: dark", "@media print", "viewport"):
        assert mode in text
    shown = words(text)
    for group in run["groups"]:
        count = f"{group['size'] - len(group['removed'])} of {group['size']}"
        what = group["pinned"] or count
        assert what in shown
    titles = re.findall(
        r"<title>channel (\d+): score (\S+), (\w+)</title>", text
    )
    gone = [g for g in run["groups"] if not g["pinned"] and g["removed"]]
    removed = sorted(int(c) for c, _, fate in titles if fate == "removed")
    assert removed == sorted(c for g in gone for c in g["removed"])
    assert run["asked"]["repeat"] in shown
    before, after = run["results"]
    assert (
        f"{100 - 100 * after['macs'] / before['macs']:.2f} % fewer MACs"
        in shown
    )


def test_curves_are_drawn_in_the_colours_of_the_page(training):
    root = training[2]
    picture = re.search(r"<svg xmlns.*?</svg>", page(root), re.DOTALL).group()
    picture = picture.replace("xlink:href", "href")
    texts = ["".join(t.itertext()) for t in ET.fromstring(picture).iter()]
    for title in ("accuracy", "loss", "share removed", "macs"):
        assert title in texts
    assert "currentColor" in picture
    assert "#000000" not in picture


def test_reports_are_written_again_and_runs_compared(one_shot, training):
    root = one_shot[0]
    old = page(root)
    (root / "latest" / "report.html").unlink()
    result = command("report", root / "latest")
    assert result.exit_code == 0, result.output
    assert page(root) == old
    result = command("report", root)
    assert result.exit_code == 0, result.output
    name = (root / "latest").resolve().name
    assert f'href="{name}/report.html"' in (root / "report.html").read_text()
    result = command("report", root / "latest" / "run.json", "--json")
    assert '"kprune_run": 1' in result.output


def test_damaged_records_are_left_out(one_shot, tmp_path, monkeypatch, caplog):
    shutil.copytree((one_shot[0] / "latest").resolve(), tmp_path / "whole")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "run.json").write_text("{")
    monkeypatch.setenv("COLUMNS", "40")  # does not count in a pipe
    result = command("report", tmp_path)
    assert result.exit_code == 0, result.output
    assert "whole" in result.output and "…" not in result.output
    assert (tmp_path / "report.html").is_file()
    (told,) = [r.getMessage() for r in caplog.records if r.name == "kprune"]
    assert "left out" in told and os.path.join("damaged", "run.json") in told


def test_a_folder_without_runs_is_refused(tmp_path):
    assert_fails(command("report", tmp_path), "There is no run in")


def test_the_frontier_holds_what_nothing_beats():
    points = [(0.5, 0.9), (0.5, 0.8), (0.4, 0.7), (0.7, 0.85), (0.9, 0.95)]
    assert frontier(points) == [(0.4, 0.7), (0.5, 0.9), (0.9, 0.95)]
    assert frontier(points, less=True) == [(0.4, 0.7)]
    assert frontier([(0.4, 3.0), (0.6, 2.0), (0.9, 2.5)], less=True) == [
        (0.4, 3.0),
        (0.6, 2.0),
    ]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.parametrize("kind", ["one_shot", "training"])
def test_a_browser_shows_it_on_a_narrow_screen(kind, request, tmp_path):
    found = request.getfixturevalue(kind)
    root = found[0] if kind == "one_shot" else found[2]
    frame = html.escape(page(root), quote=True)
    probe = tmp_path / "probe.html"
    probe.write_text(
        f'<iframe id="f" width="400" height="900" srcdoc="{frame}"></iframe>'
        "<script>onload = () => { const d = f.contentDocument.documentElement;"
        'document.title = [d.scrollWidth, d.clientWidth].join("/"); }</script>'
    )
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu"),
            *(f"--user-data-dir={tmp_path}", "--enable-logging=stderr"),
            *("--dump-dom", probe.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    wide, seen = re.search(r"<title>(\d+)/(\d+)</title>", done.stdout).groups()
    assert int(wide) <= int(seen) == 400
    assert "CONSOLE" not in done.stderr


LOGS = {"weak_filters": 9.0, "learning_rate": 0.1, "pruned_macs": 0.5}


@pytest.mark.parametrize(
    ("logs", "metrics", "expected"),
    [
        ({"loss": 2.0}, ["loss"], ("loss", 2.0)),
        ({"loss": 2.0, "val_loss": 3.0}, ["loss"], ("val_loss", 3.0)),
        ({"acc": 0.5, "loss": 2.0}, ["loss", "acc"], ("acc", 0.5)),
        ({"acc": 0.5, "val_acc": 0.4}, ["acc"], ("val_acc", 0.4)),
        ({"acc": 0.5, "val_acc": 0.4}, None, ("val_acc", 0.4)),
        ({"acc": 0.5, "loss": 2.0}, None, ("acc", 0.5)),
        ({}, ["loss"], None),
    ],
)
def test_runs_are_judged_by_compiled_metrics(logs, metrics, expected):
    epoch = {"epoch": 0, "seconds": 1.0, "logs": {**LOGS, **logs}}
    run = {"results": [], "checks": [], "epochs": [epoch]}
    if metrics is not None:  # earlier versions did not note them
        run["metrics"] = metrics
    assert quality(run) == expected


def test_a_run_notes_what_was_compiled(training):
    assert set(training[0]["metrics"]) == {"loss", "accuracy"}
    assert quality(training[0])[0] == "accuracy"
