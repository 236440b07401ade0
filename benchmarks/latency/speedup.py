"""Compare predicted and realised speed-up on several runtimes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import keras
import subjects

import kprune
from kprune.latency import Latency
from kprune.latency import LatencyTable
from kprune.latency import predict
from kprune.latency.device import device_name
from kprune.latency.profiling import fill

SHARE = 0.5
RUNTIMES = ("LiteRT float32", "LiteRT int8", "ONNX Runtime")


def run(name: str) -> dict[str, Any]:
    """Prune one network to half of its MACs and of its latency, and time both."""
    model = subjects.build(name)
    masked = kprune.wrap(model)
    tables = {}
    for dtype in ("float32", "int8"):
        tables[dtype] = LatencyTable(device_name(), dtype=dtype)
        fill(tables[dtype], masked, subjects.timer)
    half_macs = kprune.prune(model, "l2", {"macs": SHARE})
    prunings = {("macs", runtime): half_macs for runtime in RUNTIMES}
    for dtype, runtimes in (
        ("float32", ("LiteRT float32", "ONNX Runtime")),
        ("int8", ("LiteRT int8",)),
    ):
        pruned = kprune.prune(
            model, "l2", {"latency": SHARE}, Latency(tables[dtype])
        )
        prunings.update({("latency", runtime): pruned for runtime in runtimes})
    full = kprune.cost(model)
    rows = []
    for (target, runtime), pruned in prunings.items():
        ratio = measured(model, kprune.rebuild(pruned), runtime)
        row = {
            "target": target,
            "runtime": runtime,
            "macs": round(kprune.cost(pruned).macs / full.macs, 4),
            "params": round(kprune.cost(pruned).params / full.params, 4),
            "speedup": ratio,
        }
        if runtime.startswith("LiteRT"):
            table = tables[runtime.rpartition(" ")[2]]
            row["predicted"] = round(
                predict(masked, table) / predict(pruned, table), 4
            )
        rows.append(row)
        print(name, row, flush=True)
    return {"network": name, "device": device_name(), "rows": rows}


def measured(
    model: keras.Model, compact: keras.Model, runtime: str
) -> list[float]:
    """Return the speed-up and the ends of its 95 % interval, measured in turns."""
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for label, network in (("original", model), ("compact", compact)):
            if runtime == "ONNX Runtime":
                files.append(Path(folder) / f"{label}.onnx")
                kprune.export(network, files[-1], samples=2, batch_size=1)
            else:
                files.append(Path(folder) / f"{label}.tflite")
                subjects.write(network, files[-1], runtime.rpartition(" ")[2])
        with subjects.undisturbed():
            found = kprune.compare(files, rounds=20, seconds=2.0)
    ratio = found.ratios[1]
    return [round(1 / r, 4) for r in (ratio.value, ratio.high, ratio.low)]
