"""Measure how much of each model in `keras.applications` can be pruned exactly.

    python benchmarks/coverage.py                       # all of them
    python benchmarks/coverage.py --models VGG16 ResNet50
    python benchmarks/coverage.py --table               # only write the page

Each model is built in its own process, which frees the memory afterwards, in float64
with random weights and statistics. 30-50 % of the channels of every prunable group are
removed at random, and the masked and the compact model are compared on random images.
Writes `benchmarks/results/coverage.json`, in which earlier results of other models are
kept, and from it the page `docs/coverage.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from kprune.outputs import atomic_file

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "coverage.json"
PAGE = ROOT / "docs" / "coverage.md"

# Image sizes: as small as the model allows without losing a spatial axis.
SIZES = {
    "InceptionResNetV2": 80,
    "InceptionV3": 80,
    "NASNetLarge": 64,
    "NASNetMobile": 64,
    "VGG16": 48,
    "VGG19": 48,
    "Xception": 80,
}
OUTPUT = "feeds the model output"
EXACT = 1e-10  # largest difference, relative to the largest output


def application_names() -> list[str]:
    import keras

    found = vars(keras.applications).items()
    return sorted(n for n, f in found if n[0].isupper() and callable(f))


def build(name: str):
    """Return the application with a small head and weights as if trained."""
    import keras

    size = SIZES.get(name, 64)
    base = getattr(keras.applications, name)(
        weights=None,
        include_top=False,
        pooling="avg",
        input_shape=(size, size, 3),
    )
    head = keras.layers.Dense(10, name="head")(base.output)
    model = keras.Model(base.input, head, name=name)
    randomise(model)
    return model


def randomise(model) -> None:
    """Randomise statistics and scales, whose initial 0, 1 and 1e-6 hide mistakes."""
    import keras
    import numpy as np

    rng = np.random.default_rng(0)
    for weight in model.weights:
        name = weight.path.split("/")[-1]
        if "variance" in name:
            weight.assign(rng.uniform(0.5, 2.0, weight.shape))
        elif name == "gamma":
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        elif len(weight.shape) == 1:
            weight.assign(rng.normal(size=weight.shape) * 0.3)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()  # It does not read its variables otherwise.


def random_masks(graph) -> dict:
    import numpy as np

    rng = np.random.default_rng(0)
    vectors = {}
    for group in graph.prunable:
        count = round(group.size * rng.uniform(0.3, 0.5))
        vector = np.ones(group.size)
        gone = min(max(count, 1), group.size - 1)
        vector[rng.choice(group.size, gone, replace=False)] = 0
        vectors[group.name] = vector
    return vectors


def timed(function, *args):
    start = time.perf_counter()
    value = function(*args)
    return value, time.perf_counter() - start


def measure(name: str) -> dict:
    import keras
    import numpy as np

    import kprune

    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    keras.utils.set_random_seed(0)
    model = build(name)
    x = np.random.default_rng(1).normal(size=(1, *model.input_shape[1:]))
    before = model(x, training=False)
    params = model.count_params()
    graph, trace_seconds = timed(kprune.trace, model)
    _, again = timed(kprune.trace, model)
    coverage = graph.coverage
    masked = kprune.wrap(model)
    del model, graph
    traced = kprune.trace(masked)
    kprune.set_masks(masked, random_masks(traced), traced)
    groups = len(traced.prunable)
    compact, rebuild_seconds = timed(kprune.rebuild, masked)
    y, z = (np.asarray(m(x, training=False)) for m in (masked, compact))
    scale = np.abs(y).max()
    inner = {
        r: n for r, n in coverage.reasons.items() if not r.startswith(OUTPUT)
    }
    return {
        "model": name,
        "prunable": coverage.prunable,
        "pinned": inner,
        "outputs": coverage.total - coverage.prunable - sum(inner.values()),
        "groups": groups,
        "params": params,
        "compact_params": compact.count_params(),
        "trace_seconds": round(min(trace_seconds, again), 3),
        "rebuild_seconds": round(rebuild_seconds, 2),
        "error": float(np.abs(y - z).max() / scale),
        "change": float(np.abs(np.asarray(before) - y).max() / scale),
    }


def run(names: list[str]) -> bool:
    """Measure the models one by one, and return whether all are exact."""
    good = True
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    rows = {row["model"]: row for row in known}
    for name in names:
        print(name, end=" ", flush=True)
        done = subprocess.run(
            [sys.executable, __file__, "--one", name],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            print("failed\n" + done.stderr[-2000:])
            good = False
            continue
        row = rows[name] = json.loads(done.stdout.splitlines()[-1])
        print(f"{share(row):.2%} {row['error']:.1e}")
        good = good and row["error"] <= EXACT and row["change"] > 1e-4
        with atomic_file(RESULTS) as file:
            ordered = sorted(rows.values(), key=_name)
            file.write_text(json.dumps(ordered, indent=1) + "\n")
    return good


def _name(row: dict) -> str:
    return row["model"]


def share(row: dict) -> float:
    """Return the prunable share of the channels that do not feed the output."""
    total = row["prunable"] + sum(row["pinned"].values())
    return row["prunable"] / total


def page(rows: list[dict]) -> str:
    worst = max(r["error"] for r in rows)
    lowest = min(share(r) for r in rows)
    lines = [
        "# Coverage of keras.applications",
        "",
        f"{len(rows)} models. In each, at least {lowest:.1%} of the channels that do "
        "not feed the output can be pruned. With 30-50 % of the channels of every "
        "group removed at random, the outputs of the masked and the compact model "
        f"differ by at most {worst:.1e} in float64, relative to the largest output.",
        "",
        "Written by `python benchmarks/coverage.py`: random weights, no top, small "
        "images, one process per model. Times were measured on a busy machine with 2 "
        "CPU cores: the better of two runs for trace, a single run for rebuild.",
        "",
        "| model | channels | prunable | groups | parameters | compact | trace s "
        "| rebuild s | difference |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        total = row["prunable"] + sum(row["pinned"].values())
        lines.append(
            f"| {row['model']} | {total:,} | {share(row):.1%} | {row['groups']} "
            f"| {row['params'] / 1e6:.2f} M | {row['compact_params'] / 1e6:.2f} M "
            f"| {row['trace_seconds']:.3f} | {row['rebuild_seconds']:.2f} "
            f"| {row['error']:.1e} |"
        )
    lines += ["", "## Pinned channels by reason", ""]
    pinned = [(r, why, n) for r in rows for why, n in r["pinned"].items()]
    lines += [f"- {r['model']}: {n:,} - {why}" for r, why, n in pinned]
    lines += [] if pinned else ["None."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", help="default: all 40")
    parser.add_argument(
        "--table", action="store_true", help="write the page, measure nothing"
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one)))
        return
    good = options.table or run(options.models or application_names())
    with atomic_file(PAGE) as file:
        file.write_text(page(json.loads(RESULTS.read_text())))
    if not good:
        sys.exit("Some models failed or are not exact. See above.")


if __name__ == "__main__":
    main()
