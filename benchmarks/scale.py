"""How trace time and memory grow with the size of a model.

    python benchmarks/scale.py trace                 # layers against seconds
    python benchmarks/scale.py width                 # channels against seconds
    python benchmarks/scale.py memory [--model NAME] # peak of prune + rebuild

`trace` and `width` also write a plot to docs/scale_*.svg (needs matplotlib);
`memory` runs in this process alone, so start it once per model.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import resource
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

DOCS = pathlib.Path(__file__).resolve().parent.parent / "docs"
MODELS = (
    "VGG16 ResNet50 MobileNetV2 DenseNet121 DenseNet201 InceptionV3 "
    "InceptionResNetV2 EfficientNetB0 EfficientNetB7 NASNetMobile NASNetLarge"
).split()


def trace_seconds(model, runs: int = 5) -> float:
    import kprune

    kprune.trace(model)
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        kprune.trace(model)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def by_layers():
    """`(name, layers, seconds)` of applications of growing depth."""
    import keras

    rows = []
    for name in MODELS:
        model = getattr(keras.applications, name)(weights=None)
        rows.append((name, len(model.layers), trace_seconds(model)))
        print(f"{name}: {rows[-1][1]} layers, {rows[-1][2]:.3f} s", flush=True)
        keras.backend.clear_session()
    return rows


def by_channels():
    """`(name, channels, seconds)` of one network at growing width."""
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
        ylabel="kprune.trace, ms",
        xlim=(0, None),
        ylim=(0, None),
    )
    figure.tight_layout()
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    print(f"wrote {path.name}")


def peak_memory(name: str) -> None:
    """Peak resident memory of prune + rebuild over the bytes of the weights."""
    import keras

    import kprune

    model = getattr(keras.applications, name)(
        weights=None, input_shape=(64, 64, 3), include_top=False, pooling="avg"
    )
    model = keras.Model(model.input, keras.layers.Dense(10)(model.output))
    weights = kprune.cost(model).bytes
    base = rss() - weights
    print(
        f"{name}: weights {weights / 2**20:.0f} MiB, "
        f"process without them {base / 2**20:.0f} MiB",
        flush=True,
    )
    start = time.perf_counter()
    masked = kprune.prune(model, reduce={"macs": 0.5})
    pruned = time.perf_counter()
    del model
    compact = kprune.rebuild(masked)
    done = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        f"prune {pruned - start:.1f} s, rebuild {done - pruned:.1f} s, "
        f"{kprune.cost(compact).bytes / 2**20:.0f} MiB left; peak "
        f"{peak / 2**20:.0f} MiB = {(peak - base) / weights:.2f} x the weights "
        f"(process included: {peak / weights:.2f} x)"
    )


def rss() -> int:
    """Resident bytes of this process now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["trace", "width", "memory"])
    parser.add_argument("--model", default="ConvNeXtXLarge")
    arguments = parser.parse_args()
    if arguments.what == "memory":
        peak_memory(arguments.model)
    elif arguments.what == "trace":
        plot(by_layers(), "layers", DOCS / "scale_layers.svg")
    else:
        plot(by_channels(), "channels", DOCS / "scale_channels.svg")


if __name__ == "__main__":
    main()
