"""Prune to half of ONNX Runtime's time, with a table measured on ONNX Runtime."""

from __future__ import annotations

from typing import Any

import speedup
import subjects

import kprune
from kprune.latency import Latency
from kprune.latency import LatencyTable
from kprune.latency import predict
from kprune.latency import runtimes
from kprune.latency.profiling import fill

RUNTIME = "onnxruntime"


def run(name: str) -> dict[str, Any]:
    """Prune one network to half of its time, and time it like `speedup.py`."""
    model = subjects.build(name)
    masked = kprune.wrap(model)
    device = runtimes.get(RUNTIME)
    table = LatencyTable(device.device, RUNTIME)
    fill(table, masked, subjects.timer_of(RUNTIME), device)
    pruned = kprune.prune(
        model, "l2", {"latency": speedup.SHARE}, Latency(table)
    )
    compact = kprune.rebuild(pruned)
    predicted = predict(masked, table) / predict(pruned, table)
    measured = speedup.measured(model, compact, "ONNX Runtime")
    return {
        "network": name,
        "device": device.device,
        "measurements": table.size,
        "predicted": round(predicted, 4),
        "speedup": measured,
        "error": round(predicted / measured[0] - 1, 4),
        "macs": round(kprune.cost(compact).macs / kprune.cost(model).macs, 4),
    }
