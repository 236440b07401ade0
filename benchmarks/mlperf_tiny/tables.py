"""Write docs/mlperf_tiny.md from the results."""

from __future__ import annotations

import json
import os
import statistics
import textwrap
from collections.abc import Callable
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import costs
import suite

Result = dict[str, Any]

INTRODUCTION = """\
# MLPerf Tiny, pruned

The networks of the MLPerf Tiny benchmark (MLCommons), pruned by kprune for the scarce
resources of a microcontroller or an NPU. Made by

```
python benchmarks/mlperf_tiny/run.py --data ../shared/data
```

which also writes this page from `benchmarks/mlperf_tiny/results/`; no number in it is
written by hand. Four networks are the suite's trained files; DS-CNN is built from the
suite's description and is **untrained**. All files are int8, including inputs and
outputs.

- *Time* and *SRAM* are estimates by Arm's compiler Vela for an Ethos-U55-128 in Vela's
  default system configuration. Nothing was run on a device.
- *Arena* is the memory that TensorFlow Lite Micro (TFLM) plans for activations.
- *LiteRT* is the time on one thread of the machine that ran the benchmark. It was
  **busy with other work**, so small times show little more than their order of
  magnitude.
- *Flash* is the size of the `.tflite` file.
"""

COLUMNS = (
    ("time, ms", "vela_milliseconds", lambda n: f"{n:.3f}"),
    ("SRAM, KiB", "vela_sram", lambda n: f"{n / 1024:.1f}"),
    ("arena, KiB", "arena", lambda n: f"{n / 1024:.1f}"),
    ("flash, KiB", "flash", lambda n: f"{n / 1024:.1f}"),
    ("LiteRT, ms", "litert_milliseconds", lambda n: f"{n:.3f}"),
    ("MACs, M", "macs", lambda n: f"{n / 1e6:.2f}"),
    ("parameters", "params", lambda n: f"{n:,}"),
)

ASKED = {
    "npu": ("vela_milliseconds",),
    "npu-ram": ("vela_sram",),
    "npu-both": ("vela_milliseconds", "vela_sram"),
    "litert": ("litert_milliseconds",),
    "arena": ("arena",),
    "macs": ("macs",),
}
"""Columns of the costs that a way of `costs.py` prunes for."""

EARLIER = {
    "vww": "the Ethos-U, and for 30 % less arena,",
    "ad": "the Ethos-U and the arena",
    "sww": "the Ethos-U and the arena",
}
"""What results of a network are older than `WholeSearch`."""

MISSED = 0.03
"""Share by which a target may be missed before the page says so."""


def read(results: Path, kind: str) -> list[Result]:
    """Return the results of a part."""
    paths = sorted(results.glob(f"{kind}-*.json"))
    return [json.loads(path.read_text()) for path in paths]


def wrapped(text: str) -> list[str]:
    return [*textwrap.wrap(text, 88, break_on_hyphens=False), ""]


def header(*names: str) -> list[str]:
    """Return the head of a table whose columns are numbers, except the first."""
    line = f"| {' | '.join(names)} |"
    return [line, f"|---{'|--:' * (len(names) - 1)}|"]


# -- costs ----------------------------------------------------------------


def cost_lines(results: list[Result]) -> list[str]:
    """Return a table for each network."""
    if not results:
        return []
    lines = [
        "## How pruning for one cost changes the others",
        "",
        *wrapped(
            "**Costs only**: filters are removed by L2 norm, without repair or "
            "training, and accuracy is not measured. `reduce` asks for 30 % or 50 % "
            "less of the cost in the first column. The remaining share of each cost is "
            "in brackets, that of the requested cost in bold."
        ),
    ]
    for name, (title, _) in suite.NETWORKS.items():
        rows = [r for r in results if r["setting"]["network"] == name]
        if rows:
            lines += [f"### {title[0].upper()}{title[1:]}", ""]
            lines += network_table(rows)
            if name in EARLIER:
                lines += wrapped(
                    f"The rows for {EARLIER[name]} predate the search that checks "
                    "each candidate as a whole model, with Vela or the memory plan."
                )
    return lines


def network_table(rows: list[Result]) -> list[str]:
    lines = header("pruned for", "asked", *(title for title, _, _ in COLUMNS))
    before = rows[0]["before"]
    cells = [shown(before[key]) for _, key, shown in COLUMNS]
    lines.append(f"| nothing | | {' | '.join(cells)} |")
    notes = []
    order = list(costs.WAYS)
    for row in sorted(
        rows, key=lambda r: (order.index(r["setting"]["way"]), _share(r))
    ):
        title = costs.WAYS[row["setting"]["way"]].title
        start = f"| {title} | {_share(row):.0%} less |"
        if row["final"] is None:
            lines.append(f"{start} not met |{' |' * (len(COLUMNS) - 1)}")
            notes.append(f"{title}, {_share(row):.0%}: {row['unmet']}")
            continue
        cells = [cell(row, key, shown) for _, key, shown in COLUMNS]
        lines.append(f"{start} {' | '.join(cells)} |")
    lines.append("")
    for note in notes:
        lines += wrapped(f"Not met: {note}")
    missed = [
        f"{costs.WAYS[row['setting']['way']].title}, {_share(row):.0%} less"
        for row in rows
        if row["final"] is not None and short(row)
    ]
    if missed:
        lines += wrapped(
            "Targets missed by more than "
            f"{MISSED:.0%} of the unpruned network's cost: {'; '.join(missed)}."
        )
    return lines


def short(row: Result) -> bool:
    """Return whether a target was missed by more than `MISSED`."""
    return any(
        row["final"][key] / row["before"][key] > 1 - _share(row) + MISSED
        for key in ASKED[row["setting"]["way"]]
    )


def cell(row: Result, key: str, shown: Callable[[float], str]) -> str:
    """Return a cost and its remaining share, in bold if the target is on it."""
    left = row["final"][key] / row["before"][key]
    text = f"{shown(row['final'][key])} ({left:.0%})"
    return f"**{text}**" if key in ASKED[row["setting"]["way"]] else text


def _share(row: Mapping[str, Any]) -> float:
    return float(next(iter(row["setting"]["reduce"].values())))


# -- training -------------------------------------------------------------


TITLES = {
    "widest": "the widest of the grid",
    "npu": "by `Latency` and `Ram` of the NPU",
    "macs": "MACs",
    "macs-round8": "MACs, `round_to=8`",
}


def trained_lines(results: list[Result], found: list[Result]) -> list[str]:
    """Return the section on ResNet-8 after training."""
    lines = ["## ResNet-8 within 60 % of time and SRAM", ""]
    for search in found:
        best = search["final"][0]
        lines += wrapped(
            f"By Vela's estimate, {search['fitting']} of {search['tried']} widths in a "
            f"grid need at most {search['setting']['limit']:.0%} of both the time and "
            "the SRAM of the unpruned file. The one with the most MACs keeps "
            f"{', '.join(map(str, best['kept']))} channels: {best['macs']:.0%} of the "
            f"MACs, {best['params']:.0%} of the parameters."
        )
    groups: dict[tuple[Any, ...], list[Result]] = {}
    for run in results:
        budget = run["setting"]["epochs"], run["setting"]["images_per_epoch"]
        options = (run["setting"][name] for name in ("padding", "qat"))
        key = (run["arm"], *budget, *options, *sorted(run["target"].items()))
        groups.setdefault(key, []).append(run)
    if not groups:
        return [*lines, "No result of training is committed yet.", ""]
    first = results[0]
    lines += wrapped(
        "The network is pruned at once, repaired on "
        f"{first['setting']['calibration']:,} unlabelled training images, rebuilt, and "
        "trained on labels and with the unpruned network as teacher: "
        f"{first['setting']['optimizer']}, learning rate "
        f"{first['setting']['learning_rate']:g}, {schedule(first['setting'])}; flips "
        "and crops after padding by the number of pixels in the table. *QAT* is the "
        'same file after some epochs of quantisation-aware training (`quantize="qat"`) '
        "on labels, without a teacher or augmentation. Time and SRAM are relative to "
        "the unpruned int8 file. Accuracies are measured after the last epoch, in "
        "percent, ± the standard deviation over seeds: on all 10,000 test images, and "
        "on the 5,000 on which no choice was made. The suite requires 85.0 %."
    )
    lines += header(
        "pruned for",
        "epochs x images",
        "padding",
        "seeds",
        "time",
        "SRAM",
        "flash, KiB",
        "MACs",
        "right after, float",
        "float, `test`",
        "int8, `test`",
        "int8, `test[5000:]`",
        "QAT, epochs",
        "QAT, `test`",
        "QAT, `test[5000:]`",
    )
    before = first["int8"]
    score = before["accuracy"]["before"]
    lines.append(
        f"| nothing | | | | 100 % | 100 % | {before['flash']['before'] / 1024:.1f} | "
        f"100 % | | {first['baseline']['test']:.2f} | {score['test']:.2f} | "
        f"{score['test[5000:]']:.2f} | | | |"
    )
    lines += [trained_row(runs) for runs in groups.values()]
    return [*lines, ""]


def schedule(setting: Mapping[str, Any]) -> str:
    """Return the schedule of the learning rate in words."""
    epochs = setting["warmup"]
    if not epochs:
        return str(setting["schedule"])
    first = "first epoch" if epochs == 1 else f"first {epochs} epochs"
    return f"linear from 0 in the {first}, then cosine to 0"


def trained_row(runs: list[Result]) -> str:
    def mean(value: Callable[[Result], float]) -> float:
        return statistics.fmean(map(value, runs))

    def left(key: str) -> str:
        share = mean(
            lambda r: r["int8"][key]["after"] / r["int8"][key]["before"]
        )
        return f"{100 * share:.1f} %"

    def spread(value: Callable[[Result], float]) -> str:
        values = [value(run) for run in runs]
        text = f"{statistics.fmean(values):.2f}"
        if len(values) > 1:
            text += f" ± {statistics.stdev(values):.2f}"
        return text

    run = runs[0]
    setting = run["setting"]
    flash = mean(lambda r: r["int8"]["flash"]["after"]) / 1024
    cells = [
        TITLES[run["arm"]],
        f"{setting['epochs']} x {setting['images_per_epoch']:,}",
        str(setting["padding"]),
        ", ".join(str(r["seed"]) for r in runs),
        left("vela_milliseconds"),
        left("vela_sram"),
        f"{flash:.1f}",
        f"{100 - 100 * mean(lambda r: r['macs']['removed']):.1f} %",
        spread(lambda r: r["pruned"]["accuracy"]["test"]),
        spread(lambda r: r["final"]["test"]),
        spread(lambda r: r["int8"]["accuracy"]["after"]["test"]),
        spread(lambda r: r["int8"]["accuracy"]["after"]["test[5000:]"]),
    ]
    if setting["qat"]:
        cells += [
            f"{setting['qat']}, rate {setting['qat_rate']:g}",
            spread(lambda r: r["qat"]["accuracy"]["test"]),
            spread(lambda r: r["qat"]["accuracy"]["test[5000:]"]),
        ]
    else:
        cells += ["", "", ""]
    return f"| {' | '.join(cells)} |"


# -- the arena ------------------------------------------------------------


def arena_lines(results: list[Result]) -> list[str]:
    """Return the table of estimates and of the interpreter's own figures."""
    if not results:
        return []
    lines = [
        "## The arena: estimated, and reported by TFLM",
        "",
        *wrapped(
            "Bytes, with the package tflite-micro and its reference kernels on a "
            "64-bit host. *Used* is the size that the running interpreter reports, "
            "`arena.used` kprune's estimate of it. The interpreter may need more to "
            "start: *smallest* is the smallest arena in which it started, "
            "`arena.total` the size that kprune's headers reserve."
        ),
        *header(
            "network",
            "activations: TFLM",
            "`planned`",
            "used: TFLM",
            "`used`",
            "difference",
            "smallest: TFLM",
            "`total`",
        ),
    ]
    order = list(suite.NETWORKS)
    for result in sorted(
        results, key=lambda r: order.index(r["setting"]["network"])
    ):
        for way, row in result["final"].items():
            cells = [
                f"{result['title']}, {way}",
                f"{row['activations']:,}",
                f"{row['planned']:,}",
                f"{row['used']:,}",
                f"{row['estimate']:,}",
                f"{row['estimate'] / row['used'] - 1:+.1%}",
                f"{row['smallest']:,}",
                f"{row['total']:,}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def write_page(results: Path, page: Path) -> None:
    """Write the page from the existing results."""
    lines = [
        INTRODUCTION,
        *trained_lines(read(results, "*-teacher"), read(results, "widths")),
        *cost_lines(read(results, "costs")),
        *arena_lines(read(results, "arena")),
    ]
    page.parent.mkdir(parents=True, exist_ok=True)
    temporary = page.with_suffix(".tmp")
    temporary.write_text("\n".join(lines).rstrip() + "\n")
    os.replace(temporary, page)
