"""Write docs/latency_results.md and its plots from the results of `run.py`.

python benchmarks/latency/page.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
DOCS = HERE.parents[1] / "docs"

INTRODUCTION = """\
# Latency: predicted, pruned for, realised

Made by `python benchmarks/latency/run.py` and `page.py`; the docstring of `run.py`
describes the experiments. All times are for one thread of one machine, LiteRT with
XNNPACK, batch size 1. Other machines give other numbers, and other steps of widths.
[latency.md](latency.md) explains what a table is and how to make one for a phone.
"""


def read(kind: str) -> list[dict[str, Any]]:
    """Return the results of a part."""
    return [
        json.loads(path.read_text())
        for path in sorted(RESULTS.glob(f"{kind}-*.json"))
    ]


def prediction(results: list[dict[str, Any]]) -> list[str]:
    lines = [
        "## Predicted against measured",
        "",
        "Random prunings that the table was not measured on; every second one removes "
        "the same share of all groups. Error is predicted / measured - 1.",
        "",
        "| network | number format | prunings | median error | largest | "
        "measurements | seconds | steps (read, written) |",
        "|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for r in results:
        steps = ", ".join(
            f"{kind.lower()} {tuple(step)}" for kind, step in r["steps"].items()
        )
        lines.append(
            f"| {r['network']} | {r['dtype']} | {len(r['milliseconds'])} | "
            f"{r['median_error']:.1%} | {r['largest_error']:.1%} | "
            f"{r['measurements']:,} | {r['seconds_to_profile']:.0f} | {steps} |"
        )
    return [*lines, "", "![Predicted and measured](latency_prediction.svg)", ""]


def plot_prediction(results: list[dict[str, Any]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4.2), layout="constrained")
    axes = figure.subplots()
    highest = 0.0
    for r in results:
        predicted, measured = zip(*r["milliseconds"], strict=True)
        label = f"{r['network'].partition(',')[0]}, {r['dtype']}"
        axes.plot(measured, predicted, "o", ms=4, alpha=0.8, label=label)
        highest = max(highest, *predicted, *measured)
    axes.plot([0, highest], [0, highest], color="0.6", lw=1, zorder=0)
    axes.set_xlabel("measured, ms")
    axes.set_ylabel("predicted, ms")
    axes.legend(frameon=False, fontsize=8)
    save(figure, "latency_prediction.svg")


def quality(result: dict[str, Any]) -> tuple[str, str]:
    """Return the key of the measure of quality, and its name."""
    if result["accuracy"] is not None:
        return "accuracy", "accuracy on test[5000:], %"
    return "worth", "share of worth kept"


def frontier(results: list[dict[str, Any]]) -> list[str]:
    introduction = [
        "## Pruned for latency",
        "",
        "Three ways to choose how many filters to remove of each group, with the same "
        "criterion (L2) and the same repair. Latency is measured, relative to that of "
        'the original. Accuracy is measured right after `recover="reconstruct"`, '
        "without training. Worth is the kept share of the filters' norms, as a "
        "geometric mean over the layers that read a group. The latency allocation "
        "maximises it, so this column favours that allocation. With `output_error` the "
        "criterion is `reconstruction`, and channels are removed where the output "
        "error is smallest.",
        "",
    ]
    plot = ["![Kept against latency](latency_frontier.svg)", ""]
    return [*introduction, *compared(results), *plot]


def npu(results: list[dict[str, Any]]) -> list[str]:
    return [
        "## Pruned for an Ethos-U",
        "",
        "The same in int8 for an Ethos-U55 with 128 MACs a cycle. Latency is Vela's "
        "estimate for the whole compact model, relative to that of the original. "
        "Accuracy is that of the float32 model. Where filters of the original are 0 "
        "(MobileNetV1), they compress better than the others, so the result takes "
        "about 2 points more than was asked.",
        "",
        *compared(results),
    ]


def compared(results: list[dict[str, Any]]) -> list[str]:
    """Return a table for each network, and what it says at equal latency."""
    lines: list[str] = []
    for r in results:
        key, name = quality(r)
        digits = 2 if key == "accuracy" else 3
        base = (
            "" if r["accuracy"] is None else f", {r['accuracy']:.2f} % unpruned"
        )
        lines += [
            f"### {r['network']} ({r['milliseconds']:.3f} ms{base})",
            "",
            f"| pruned for | asked | latency | MACs | {name} |",
            "|---|---:|---:|---:|---:|",
        ]
        lines += [
            f"| {row['way']} | {row['share']:.0%} less | {row['latency']:.1%} | "
            f"{row['macs']:.1%} | {row[key]:.{digits}f} |"
            for row in r["rows"]
        ]
        lines += ["", *dominance(r, key, digits), ""]
    return lines


def dominance(result: dict[str, Any], key: str, digits: int) -> list[str]:
    """Return lines that compare the ways at equal latency."""
    import numpy as np

    by_way: dict[str, list[tuple[float, float]]] = {}
    for row in result["rows"]:
        by_way.setdefault(row["way"], []).append((row["latency"], row[key]))
    sentences = []
    for way, points in by_way.items():
        timed = way.replace("macs", "latency").replace(", round_to=8", "")
        if timed == way:
            continue
        x, y = np.array(sorted(points)).T
        inside = [p for p in sorted(by_way[timed]) if x[0] <= p[0] <= x[-1]]
        gains = [got - float(np.interp(at, x, y)) for at, got in inside]
        listed = ", ".join(
            f"{gain:+.{digits}f} at {at:.0%}"
            for gain, (at, _) in zip(gains, inside, strict=True)
        )
        sentences.append(
            f"- `{timed}` against `{way}`, interpolated to the same latency: "
            f"{listed or 'no latency in common'}."
        )
    return sentences


def plot_frontier(results: list[dict[str, Any]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * len(results), 3.8), layout="constrained")
    for axes, r in zip(
        figure.subplots(1, len(results), squeeze=False)[0], results, strict=True
    ):
        key, name = quality(r)
        for way in dict.fromkeys(row["way"] for row in r["rows"]):
            points = sorted(
                (row["latency"], row[key])
                for row in r["rows"]
                if row["way"] == way
            )
            axes.plot(*zip(*points, strict=True), "o-", ms=4, label=way)
        axes.set_title(r["network"], fontsize=10)
        axes.set_xlabel("measured latency, share of the original's")
        axes.set_ylabel(name)
        axes.legend(frameon=False, fontsize=8)
    save(figure, "latency_frontier.svg")


def speedup(results: list[dict[str, Any]]) -> list[str]:
    lines = [
        "## Realised speed-up",
        "",
        "`kprune.prune` with L2 removes half of the MACs, or half of the latency in "
        "the same number format (for ONNX Runtime, in LiteRT float32). The original "
        "and the compact model are timed in turns. In brackets: the 95 % interval of "
        "the measured ratio. By MACs, the ratio would be 2.0.",
        "",
        "| network | removed | runtime | MACs left | parameters left | predicted | "
        "measured |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for r in results:
        for row in r["rows"]:
            value, low, high = row["speedup"]
            predicted = row.get("predicted")
            lines.append(
                f"| {r['network']} | half the {row['target']} | {row['runtime']} | "
                f"{row['macs']:.1%} | {row['params']:.1%} | "
                f"{'' if predicted is None else f'{predicted:.2f}x'} | "
                f"{value:.2f}x ({low:.2f}-{high:.2f}) |"
            )
    return [*lines, ""]


def own_table(results: list[dict[str, Any]]) -> list[str]:
    lines = [
        "## ONNX Runtime, with its own table",
        "",
        "Half of ONNX Runtime's time is removed, by a table measured on ONNX Runtime. "
        "Timed as above, on a machine that was busy with other work; error is "
        "predicted / measured - 1.",
        "",
        "| network | MACs left | predicted | measured | error | measurements |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for r in results:
        value, low, high = r["speedup"]
        lines.append(
            f"| {r['network']} | {r['macs']:.1%} | {r['predicted']:.2f}x | "
            f"{value:.2f}x ({low:.2f}-{high:.2f}) | {r['error']:+.1%} | "
            f"{r['measurements']:,} |"
        )
    return [*lines, ""]


def save(figure: Any, name: str) -> None:
    import matplotlib

    # Without dates and random names, the same results give the same file.
    with matplotlib.rc_context({"svg.hashsalt": "kprune"}):
        figure.savefig(DOCS / name, metadata={"Date": None})


def main() -> None:
    predicted, pruned, on_npu, realised, own = map(
        read, ("predict", "frontier", "npu", "speedup", "onnx")
    )
    lines = [INTRODUCTION]
    for results, write, plot in (
        (predicted, prediction, plot_prediction),
        (pruned, frontier, plot_frontier),
        (on_npu, npu, None),
        (realised, speedup, None),
        (own, own_table, None),
    ):
        if results:
            lines += write(results)
            if plot is not None:
                plot(results)
    devices = {r["device"] for r in [*predicted, *pruned, *realised, *own]}
    lines += [f"Measured on: {'; '.join(sorted(devices))}.", ""]
    (DOCS / "latency_results.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
