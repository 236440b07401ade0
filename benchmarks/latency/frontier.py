"""Compare accuracy, or the worth of the kept filters, at measured latencies.

A network is pruned for latency, for MACs, and for MACs with widths rounded to multiples
of 8, with the same criterion and the same repair. If there are samples, it is also
pruned for latency and for MACs with the least output error.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import subjects

import kprune
from kprune import Session
from kprune.allocation import Global
from kprune.allocation import Request
from kprune.latency import Latency
from kprune.latency import LatencyTable
from kprune.latency.device import device_name
from kprune.latency.profiling import fill
from kprune.recovery.allocation.output_error import OutputError

WAYS = ("latency", "macs", "macs, round_to=8")
WITH_SAMPLES = ("latency, output_error", "macs, output_error")
LATENCIES = (0.15, 0.25, 0.35, 0.45)
MACS = (0.25, 0.4, 0.55, 0.7)
SAMPLES = 1024


def targets(way: str) -> tuple[float, ...]:
    return LATENCIES if way.startswith("latency") else MACS


class OnceOutputError(OutputError):
    """Measures its curves once, since they are the same for all targets."""

    def __init__(self) -> None:
        super().__init__(samples=SAMPLES)
        self._known: list[np.ndarray] | None = None

    def curves(
        self, request: Request, session: Session | None
    ) -> list[np.ndarray]:
        if self._known is None:
            self._known = super().curves(request, session)
        return self._known


def prune(
    model: keras.Model,
    way: str,
    share: float,
    table: LatencyTable,
    once: OnceOutputError,
    **options: Any,
) -> keras.Model:
    criterion = "reconstruction" if "output_error" in way else "l2"
    allocation = Global(round_to=8) if "round" in way else Global()
    base = once if "output_error" in way else allocation
    if way.startswith("latency"):
        reduce, chosen = {"latency": share}, Latency(table, base)
    else:
        reduce, chosen = {"macs": share}, base
    return kprune.prune(model, criterion, reduce, chosen, **options)


def worth(model: keras.Model, masked: keras.Model) -> float:
    """Return the geometric mean of the kept worth over the layers that read a group.

    Worth is the sum of the filters' L2 norms. The latency allocation maximises it, so
    unlike accuracy, this measure favours that allocation.
    """
    groups = kprune.trace(model).prunable
    scores = kprune.criteria.score_groups("l2", groups)
    total, count = 0.0, 0
    for (name, mask), group in zip(
        kprune.masks(masked).items(), groups, strict=True
    ):
        readers = max(1, len({id(m.layer) for m in group.consumers}))
        share = scores[name][mask > 0].sum() / scores[name].sum()
        total += readers * float(np.log(share))
        count += readers
    return float(np.exp(total / count))


def run(name: str, options: Any) -> dict[str, Any]:
    """Measure all ways and targets of one network."""
    model = subjects.build(name)
    accuracy, data = None, {}
    if name.startswith("ResNet-20"):
        accuracy, samples = _cifar10(model, options)
        data = {"data": samples, "recover": "reconstruct"}
    table = LatencyTable(device_name())
    fill(table, model, subjects.timer)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        subjects.write(model, path, "float32")
        full = subjects.timer(path.read_bytes(), 1, 50, 0.5)
        rows, once = [], OnceOutputError()
        for way in (*WAYS, *(WITH_SAMPLES if data else ())):
            for share in targets(way):
                masked = prune(model, way, share, table, once, **data)
                compact = kprune.rebuild(masked)
                subjects.write(compact, path, "float32")
                row = {
                    "way": way,
                    "share": share,
                    "latency": round(
                        subjects.timer(path.read_bytes(), 1, 50, 0.5) / full, 4
                    ),
                    "macs": round(
                        kprune.cost(compact).macs / kprune.cost(model).macs, 4
                    ),
                    "worth": round(worth(model, masked), 4),
                }
                if accuracy is not None:
                    row["accuracy"] = accuracy(compact)
                rows.append(row)
                print(name, row, flush=True)
    return {
        "network": name,
        "device": device_name(),
        "milliseconds": round(full, 5),
        "accuracy": None if accuracy is None else accuracy(model),
        "rows": rows,
    }


def _cifar10(model: keras.Model, options: Any) -> Any:
    import cifar10_resnet as example

    from kprune.data import load_cifar10
    from kprune.data import normalize_cifar10

    example.load_weights(model, Path(options.weights) / "cifar10_resnet20.npz")
    images, labels = load_cifar10("test[5000:]", options.data_dir)
    x = normalize_cifar10(images)
    samples, _ = load_cifar10(f"train[:{SAMPLES}]", options.data_dir)

    def accuracy(network: keras.Model) -> float:
        found = network.predict(x, batch_size=500, verbose=0).argmax(1)
        return round(100 * float((found == labels).mean()), 2)

    return accuracy, normalize_cifar10(samples)
