"""Compare predicted and measured latency of whole models at random prunings."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import subjects

import kprune
from kprune.latency import LatencyModel
from kprune.latency import LatencyTable
from kprune.latency.device import device_name
from kprune.latency.profiling import fill

PRUNINGS = 20
NAMES = ("MobileNetV2, 96 px", "ResNet-20, 32 px")


def run(name: str, dtype: str, tables: Path) -> dict[str, Any]:
    """Profile a network, then predict and measure it at random widths."""
    model = subjects.build(name)
    masked = kprune.wrap(model)
    table = LatencyTable(device_name(), dtype=dtype)
    start = time.perf_counter()
    fill(table, masked, subjects.timer)
    seconds = time.perf_counter() - start
    slug = name.partition(",")[0].lower().replace("-", "")
    table.save(tables / f"{slug}-{dtype}.json")
    latency = LatencyModel(kprune.trace(masked), table)
    rng = np.random.default_rng(1)
    points = []
    for number in range(PRUNINGS):
        # Every second one removes the same share of all groups.
        shape = 1 if number % 2 else len(latency.sizes)
        share = rng.uniform(0.25, 1.0, shape)
        kept = np.maximum(1, np.rint(share * latency.sizes)).astype(int)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.tflite"
            subjects.write(subjects.with_counts(masked, kept), path, dtype)
            measured = subjects.timer(path.read_bytes(), 1, 50, 0.3)
        points.append([round(float(latency(kept)), 5), round(measured, 5)])
    errors = [abs(p / m - 1) for p, m in points]
    return {
        "network": name,
        "dtype": dtype,
        "device": device_name(),
        "seconds_to_profile": round(seconds, 1),
        "measurements": table.size,
        "steps": table.steps,
        "milliseconds": points,
        "median_error": round(float(np.median(errors)), 4),
        "largest_error": round(float(np.max(errors)), 4),
    }
