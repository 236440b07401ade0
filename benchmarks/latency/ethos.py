"""Compare predicted times for Ethos-U with Vela's figure for the whole model.

    python benchmarks/latency/ethos.py ../shared/data/models/mlperf_tiny_ic_resnet8.h5
    python benchmarks/latency/ethos.py --widths

Twenty random prunings, at any widths and at multiples of 8: the predicted time is
compared with Vela's figure for the compact model, converted anew. Then the same model
is pruned for half of the time, of the MACs, and of the MACs in multiples of 8.

`--widths` prints the table in docs/latency.md: Vela's figures for two convolutions, by
the number of channels between them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import subjects

import kprune
from kprune.latency import Latency
from kprune.latency import LatencyModel
from kprune.latency import LatencyTable
from kprune.latency import runtimes
from kprune.latency.conversion import file_of
from kprune.latency.profiling import fill

PRUNINGS = 20


def counts(sizes: np.ndarray, step: int) -> list[np.ndarray]:
    """Return random widths; every second one removes the same share of all groups."""
    rng = np.random.default_rng(1)
    found = []
    for number in range(PRUNINGS):
        share = rng.uniform(0.25, 1.0, 1 if number % 2 else len(sizes))
        kept = -(-np.rint(share * sizes).astype(int) // step) * step
        found.append(np.minimum(np.maximum(kept, 1), sizes))
    return found


def run(path: Path, name: str) -> dict:
    runtime = runtimes.get(name)
    model = keras.models.load_model(path, compile=False)
    masked = kprune.wrap(model)
    table = LatencyTable(runtime.device, name, "int8")
    fill(table, masked, runtime.measure, runtime)
    latency = LatencyModel(kprune.trace(masked), table)
    rows = {}
    for step in (1, 8):
        points = []
        for kept in counts(latency.sizes, step):
            compact = subjects.with_counts(masked, kept)
            said = runtime.compile(file_of(compact, "int8", "int8"))
            points.append((float(latency(kept)), said.milliseconds))
        errors = [abs(p / m - 1) for p, m in points]
        rows[f"multiples of {step}"] = {
            "median_error": round(float(np.median(errors)), 4),
            "largest_error": round(float(np.max(errors)), 4),
        }
    before = runtime.compile(file_of(model, "int8", "int8"))
    pruned = {}
    for title, reduce, allocation in (
        ("latency=0.5", {"latency": 0.5}, Latency(table)),
        ("macs=0.5", {"macs": 0.5}, "global"),
        (
            "macs=0.5, round_to=8",
            {"macs": 0.5},
            kprune.allocation.Global(round_to=8),
        ),
    ):
        small = kprune.prune(model, "l1", reduce, allocation)
        said = runtime.compile(file_of(kprune.rebuild(small), "int8", "int8"))
        pruned[title] = {
            "time": round(said.milliseconds / before.milliseconds, 4),
            "sram": round(said.sram / before.sram, 4),
        }
    return {
        "network": path.stem,
        "device": runtime.device,
        "measurements": table.size,
        "unpruned": [before.milliseconds, before.sram],
        "predicted": rows,
        "share_left": pruned,
    }


WIDTHS = (12, 16, 17, 24, 32, 33, 48, 64)


def widths(channels: Sequence[int] = WIDTHS) -> list[str]:
    """Return the table for two convolutions on 32x32, from 32 to C to 32 channels."""
    u55, u65 = (
        runtimes.get(f"ethos-{name}") for name in ("u55-128", "u65-256")
    )
    rows: dict[str, list[str]] = {
        "U55-128, us": [],
        "U65-256, us": [],
        "SRAM (U55), KiB": [],
    }
    for count in channels:
        x = inputs = keras.Input((32, 32, 32))
        for filters in (count, 32):
            x = keras.layers.Conv2D(filters, 3, padding="same")(x)
        content = file_of(keras.Model(inputs, x), "int8", "int8")
        said = u55.compile(content)
        numbers = (
            1e3 * said.milliseconds,
            1e3 * u65.compile(content).milliseconds,
            said.sram / 1024,
        )
        for row, number in zip(rows.values(), numbers, strict=True):
            row.append(f"{number:.0f}")
    return [
        f"| C | {' | '.join(map(str, channels))} |",
        f"|---|{'---:|' * len(channels)}",
        *(f"| {title} | {' | '.join(row)} |" for title, row in rows.items()),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--widths", action="store_true")
    parser.add_argument("--runtime", default="ethos-u55-128")
    arguments = parser.parse_args()
    if arguments.widths:
        keras.utils.set_random_seed(0)
        print("\n".join(widths()))
    elif arguments.model is None:
        parser.error("pass a model, or --widths")
    else:
        print(json.dumps(run(arguments.model, arguments.runtime), indent=1))
