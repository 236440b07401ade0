"""Measure how trace time and memory grow with the size of a model.

    python benchmarks/scale.py trace                 # layers against seconds
    python benchmarks/scale.py width                 # channels against seconds
    python benchmarks/scale.py memory [--model NAME] # peak of prune + rebuild

Writes `benchmarks/results/scale.json`, in which the results of the other parts are
kept, and from it the page and its plots in `docs/` (plots need matplotlib). `memory`
measures this process, so start it once per model.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import pathlib
import resource
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from kprune.outputs import atomic_file

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "scale.json"
DOCS = ROOT / "docs"
PAGE = DOCS / "scale.md"
MODELS = (
    "VGG16 ResNet50 MobileNetV2 DenseNet121 DenseNet201 InceptionV3 "
    "InceptionResNetV2 EfficientNetB0 EfficientNetB7 NASNetMobile NASNetLarge"
).split()


def trace_seconds(model, runs: int = 5) -> float:
    """Return the median of the CPU seconds. Tracing runs in one thread."""
    import kprune

    kprune.trace(model)
    times = []
    for _ in range(runs):
        start = time.process_time()
        kprune.trace(model)
        times.append(time.process_time() - start)
    return statistics.median(times)


def by_layers():
    """Return `(name, layers, seconds)` for applications of growing depth."""
    import keras

    rows = []
    for name in MODELS:
        model = getattr(keras.applications, name)(weights=None)
        rows.append((name, len(model.layers), trace_seconds(model)))
        print(f"{name}: {rows[-1][1]} layers, {rows[-1][2]:.3f} s", flush=True)
        keras.backend.clear_session()
    return rows


def by_channels():
    """Return `(name, channels, seconds)` for one network at growing width."""
    import keras

    rows = []
    for width in (16, 64, 256, 1024, 2048):
        x = inputs = keras.Input((8, 8, 3))
        for n in range(12):
            y = keras.layers.Conv2D(width, 1, name=f"a{n}")(x)
            y = keras.layers.BatchNormalization()(y)
            x = keras.layers.Add()([x, y]) if n else y
        x = keras.layers.GlobalAveragePooling2D()(x)
        model = keras.Model(inputs, keras.layers.Dense(10)(x))
        rows.append((f"width {width}", 12 * width, trace_seconds(model)))
        print(
            f"{rows[-1][0]}: {rows[-1][1]} channels, {rows[-1][2]:.4f} s",
            flush=True,
        )
    return rows


def plot(rows, x_label: str, path: pathlib.Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    axes.scatter([r[1] for r in rows], [1000 * r[2] for r in rows])
    for name, x, seconds in rows:
        axes.annotate(name, (x, 1000 * seconds), fontsize=7)
    axes.set(
        xlabel=x_label,
        ylabel="kprune.trace, CPU ms",
        xlim=(0, None),
        ylim=(0, None),
    )
    figure.tight_layout()
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    print(f"wrote {path.name}")


def peak_memory(name: str) -> dict:
    """Return the peak memory of prune + rebuild, relative to the weights."""
    import keras

    import kprune

    model = getattr(keras.applications, name)(
        weights=None, input_shape=(64, 64, 3), include_top=False, pooling="avg"
    )
    model = keras.Model(model.input, keras.layers.Dense(10)(model.output))
    params, weights = model.count_params(), kprune.cost(model).bytes
    before = rss() - weights
    start = time.process_time()
    masked = kprune.prune(model, "l1", {"macs": 0.5})
    pruned = time.process_time()
    # A Keras model has reference cycles, so `del` alone does not free it.
    del model
    gc.collect()
    compact = kprune.rebuild(masked)
    done = time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    row = {
        "model": name,
        "params": params,
        "weights_mib": round(weights / 2**20),
        "process_mib": round(before / 2**20),
        "peak_mib": round(peak / 2**20),
        "compact_mib": round(kprune.cost(compact).bytes / 2**20),
        "ratio": round((peak - before) / weights, 2),
        "ratio_with_process": round(peak / weights, 2),
        "prune_seconds": round(pruned - start, 1),
        "rebuild_seconds": round(done - pruned, 1),
    }
    print(row)
    return row


def rss() -> int:
    """Return the current resident memory of this process in bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def slope(rows) -> float:
    """Return the exponent of growth: 1 is linear, less is better."""
    import numpy as np

    sizes, seconds = np.log([r[1] for r in rows]), np.log([r[2] for r in rows])
    return float(np.polyfit(sizes, seconds, 1)[0])


def table(rows, what: str) -> list[str]:
    return [
        f"| model | {what} | trace, s |",
        "|---|--:|--:|",
        *(f"| {name} | {size:,} | {s:.3f} |" for name, size, s in rows),
        "",
    ]


def page(results: dict) -> str:
    lines = [
        "# Scale",
        "",
        "Written by `python benchmarks/scale.py` (`trace`, `width`, `memory`). "
        "Times are CPU seconds on one core; those of `kprune.trace` are the median of "
        "5 runs.",
        "",
    ]
    if "trace" in results:
        rows = results["trace"]
        lines += [
            "## Layers",
            "",
            "Applications of growing depth: trace time grows with the number of "
            f"layers to the power {slope(rows):.2f}. (They also differ in width.)",
            "",
            "![trace time against layers](scale_layers.svg)",
            "",
            *table(rows, "layers"),
        ]
    if "width" in results:
        rows = results["width"]
        lines += [
            "## Channels",
            "",
            "12 convolutions with batch normalisation and shortcuts, at growing "
            "width: trace time grows with the number of channels to the power "
            f"{slope(rows):.2f}.",
            "",
            "![trace time against channels](scale_channels.svg)",
            "",
            *table(rows, "channels"),
        ]
    for row in results.get("memory", []):
        lines += [
            f"## Memory: {row['model']}",
            "",
            f"{row['params'] / 1e6:.0f} million parameters, "
            f"{row['weights_mib']:,} MiB of weights. `kprune.prune(model, "
            '"l1", {"macs": 0.5})`, which does not change the model, then '
            "`del model; gc.collect()` and `kprune.rebuild` together peak at "
            f"{row['ratio']} times the weights "
            f"({row['ratio_with_process']} times with the "
            f"{row['process_mib']:,} MiB of Python, TensorFlow and the model's "
            f"graph). The compact weights take {row['compact_mib']:,} MiB. "
            f"`prune` takes {row['prune_seconds']} CPU seconds, `rebuild` "
            f"{row['rebuild_seconds']}.",
            "",
        ]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["trace", "width", "memory", "page"])
    parser.add_argument("--model", default="ConvNeXtXLarge")
    arguments = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if arguments.what == "memory":
        row = peak_memory(arguments.model)
        others = [
            r for r in results.get("memory", []) if r["model"] != row["model"]
        ]
        results["memory"] = [*others, row]
    elif arguments.what == "trace":
        results["trace"] = by_layers()
        plot(results["trace"], "layers", DOCS / "scale_layers.svg")
    elif arguments.what == "width":
        results["width"] = by_channels()
        plot(results["width"], "channels", DOCS / "scale_channels.svg")
    with atomic_file(RESULTS) as file:
        file.write_text(json.dumps(results, indent=1) + "\n")
    with atomic_file(PAGE) as file:
        file.write_text(page(results))


if __name__ == "__main__":
    main()
