"""Show the record of a run as an HTML page."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

from kprune.parts import code
from kprune.parts import replayed
from kprune.report import plots
from kprune.report import units
from kprune.report.templating import template
from kprune.runs.record import COMPACT
from kprune.runs.record import ORIGINAL
from kprune.runs.schema import FINISHED

MOST_CELLS = 128
"""Maximum number of columns in the picture of a group's scores. Larger groups are
binned."""

_HEIGHT = 40
_PARTS = 3
"""Maximum number of panels with metrics."""

_LOSS, _VALIDATION = "loss", "val_"
_SHARE = "pruned_"
_COUNTERS = {
    "clustered_filters",
    "learning_rate",
    "open_gates",
    "returned_filters",
    "weak_filters",
}
"""Logs that judge no model, in records that do not note the metrics."""


def run_page(run: Mapping[str, Any], name: str) -> str:
    """Return the report of a run as a self-contained HTML page.

    Args:
        run: Result of `kprune.runs.schema.read_run`.
        name: Name of the run's folder.

    Raises:
        ImportError: jinja2 or matplotlib is not installed.
    """
    groups = [_group(group) for group in run["groups"]]
    columns, rows = results(run)
    return template("run.html", "A report").render(
        run=run,
        name=name,
        headline=headline(run),
        ended=run["status"] == FINISHED,
        columns=columns,
        results=rows,
        measured=_measured(run),
        prunable=[group for group in groups if not group["pinned"]],
        pinned=[group for group in groups if group["pinned"]],
        height=_HEIGHT,
        curves=curves(run),
        checks=[_check(check) for check in run["checks"]],
        parts={k: _words(v) for k, v in run["asked"]["parts"].items()},
    )


def headline(run: Mapping[str, Any]) -> str:
    """Return in a few words what a run removed; `""` if that is not known."""
    rows = rows_of(run)
    if not {ORIGINAL, COMPACT} <= rows.keys():
        return ""
    before, after = rows[ORIGINAL], rows[COMPACT]
    fewer = [
        f"{units.percent(1 - after[key] / before[key])} fewer {what}"
        for key, what in (("macs", "MACs"), ("params", "parameters"))
        if before[key] and after[key] is not None
    ]
    return " and ".join(fewer)


def rows_of(run: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the results of a run by their names."""
    return {row["name"]: row for row in run["results"]}


def results(
    run: Mapping[str, Any],
) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the table of results.

    Returns:
        Titles of the columns, and rows. A row has a `name` and `cells`, which are
        pairs of a value and its change from the original.
    """
    columns = [*_metric_names(run), *(_COSTS[key][0] for key in _costs(run))]
    return columns, [_result(run, row) for row in run["results"]]


def quality(run: Mapping[str, Any]) -> tuple[str, float] | None:
    """Return the metric by which to judge the compact model: its name and value.

    This is a compiled metric of the compact model or of the last epoch, preferably on
    validation data, or else the loss or the agreement with the original. Other logs,
    such as a learning rate, do not count. None if there is nothing of the kind.
    """
    after = rows_of(run).get(COMPACT, {}).get("metrics", {})
    logs = run["epochs"][-1]["logs"] if run["epochs"] else {}
    known = _compiled(run)
    trained = {k: v for k, v in logs.items() if k in known}
    validated = {
        k: v
        for k, v in logs.items()
        if k.startswith(_VALIDATION) and k.removeprefix(_VALIDATION) in known
    }
    measured = (after, validated, trained)
    for found in measured:
        for name, value in found.items():
            if value is not None and not name.endswith(_LOSS):
                return name, value
    for found in measured:
        for name in (_LOSS, _VALIDATION + _LOSS):
            if found.get(name) is not None:
                return name, found[name]
    for check in run["checks"]:
        if check["what"].endswith(ORIGINAL) and check["agreement"] is not None:
            return "agreement", check["agreement"]
    return None


def _compiled(run: Mapping[str, Any]) -> set[str]:
    """Return the names of the loss and the compiled metrics."""
    found = {_LOSS, *run.get("metrics", ())}
    found.update(name for row in run["results"] for name in row["metrics"])
    if "metrics" not in run:  # a record of an earlier version
        names = {name for epoch in run["epochs"] for name in epoch["logs"]}
        validated = {name for name in names if _VALIDATION + name in names}
        others = {n for n in names if not n.startswith(_SHARE)}
        found |= validated or others - _COUNTERS
    return found


def _metric_names(run: Mapping[str, Any]) -> list[str]:
    names = [name for row in run["results"] for name in row["metrics"]]
    return sorted(dict.fromkeys(names), key=lambda name: name.endswith(_LOSS))


_COSTS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "macs": ("MACs", units.count),
    "params": ("parameters", units.count),
    "bytes": ("weights", units.size),
    "latency": ("latency", units.milliseconds),
}


def _costs(run: Mapping[str, Any]) -> list[str]:
    """Return the names of the costs that are known."""
    rows = run["results"]
    return [k for k in _COSTS if any(row[k] is not None for row in rows)]


def _result(run: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of the table: cells, and their change from the original."""
    first = rows_of(run).get(ORIGINAL, {})
    known = row["metrics"]
    cells = [
        (units.metric(name, known.get(name)), "") for name in _metric_names(run)
    ]
    for key in _costs(run):
        show = _COSTS[key][1]
        cells.append((show(row[key]), _less(first.get(key), row[key])))
    return {"name": row["name"], "cells": cells}


def _less(before: float | None, after: float | None) -> str:
    if not before or after is None or before == after:
        return ""
    return f"{100 * (after / before - 1):+.0f} %".replace("-", "−")


def _measured(run: Mapping[str, Any]) -> str:
    counts = {row["samples"] for row in run["results"] if row["metrics"]}
    counts.discard(None)
    if len(counts) != 1:
        return ""
    return f"Metrics on {counts.pop()} of the given samples."


def _group(group: Mapping[str, Any]) -> dict[str, Any]:
    size, gone = group["size"], len(group["removed"])
    layers = ", ".join(group["layers"])
    return {
        "name": group["name"],
        "layers": "" if layers == group["name"] else layers,
        "pinned": group["pinned"],
        "size": size,
        "kept": size - gone,
        "share": round(100 * (size - gone) / max(size, 1), 1),
        "cells": _cells(group) if group["scores"] else [],
    }


def _cells(group: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the channels as columns of a picture, in order of their scores."""
    removed = set(group["removed"])
    scored = sorted(
        (score, channel)
        for channel, score in enumerate(group["scores"])
        if score is not None
    )
    if not scored:
        return []
    low, high = min(0.0, scored[0][0]), scored[-1][0]
    step = -(-len(scored) // MOST_CELLS)
    cells = []
    for start in range(0, len(scored), step):
        part = scored[start : start + step]
        gone = sum(channel in removed for _, channel in part)
        top = (part[-1][0] - low) / ((high - low) or 1)
        cells.append(
            {
                "height": round(max(1.0, _HEIGHT * top), 1),
                "gone": 2 * gone > len(part),
                "title": _title(part, gone),
            }
        )
    return cells


def _title(part: list[tuple[float, int]], gone: int) -> str:
    if len(part) == 1:
        score, channel = part[0]
        fate = "removed" if gone else "kept"
        return f"channel {channel}: score {score:.4g}, {fate}"
    return (
        f"{len(part)} channels with scores from {part[0][0]:.4g} to "
        f"{part[-1][0]:.4g}: {gone} removed"
    )


def curves(run: Mapping[str, Any]) -> str:
    """Return a picture of the training; `""` for a run without training."""
    epochs = run["epochs"]
    if not epochs:
        return ""
    names = list(dict.fromkeys(n for epoch in epochs for n in epoch["logs"]))
    columns = {n: [e["logs"].get(n) for e in epochs] for n in names}
    shares = {n: columns.pop(n) for n in names if n.startswith(_SHARE)}
    known = _compiled(run)
    plain = [n for n in columns if n in known]
    panels: dict[str, Any] = {}
    for name in sorted(plain, key=lambda n: n.endswith(_LOSS))[:_PARTS]:
        lines = {"training": columns[name]}
        if _VALIDATION + name in columns:
            lines["validation"] = columns[_VALIDATION + name]
        panels[name] = lines
    if shares:
        lines = {n.removeprefix(_SHARE): v for n, v in shares.items()}
        panels["share removed"] = lines
    x = [epoch["epoch"] + 1 for epoch in epochs]
    events = [event["epoch"] + 1 for event in run["events"]]
    return plots.curves(panels, x, events, "Curves of training and pruning")


def _check(check: Mapping[str, Any]) -> str:
    found, same = check["difference"], check["agreement"]
    what = check["what"]
    text = f"{what[:1].upper()}{what[1:]}, on {check['samples']} samples: "
    if found is None:
        return text + "the outputs cannot be compared"
    text += f"largest difference {found:.1e} of the largest output"
    return (
        text
        if same is None
        else f"{text}, same class for {units.percent(same)}"
    )


def _words(value: Any) -> str:
    """Return a recorded argument as Python code."""
    try:
        return code(replayed(value))
    except (ValueError, TypeError):
        return code(value)
