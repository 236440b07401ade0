"""Compare accuracy, or the worth of the kept filters, at equal latencies.

A network is pruned for latency, for MACs, and for MACs with widths rounded to multiples
of 8, with the same criterion and the same repair. If there are samples, it is also
pruned for latency and for MACs with the least output error. Latency is measured on
LiteRT, or estimated for an Ethos-U by its compiler.
"""

from __future__ import annotations

from collections.abc import Callable
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
from kprune.latency import runtimes
from kprune.latency.conversion import file_of
from kprune.latency.device import device_name
from kprune.latency.profiling import fill
from kprune.recovery.allocation.output_error import OutputError

WAYS = ("latency", "macs", "macs, round_to=8")
WITH_SAMPLES = ("latency, output_error", "macs, output_error")
LATENCIES = (0.15, 0.25, 0.35, 0.45)
MACS = (0.25, 0.4, 0.55, 0.7)
SAMPLES = 1024
NAMES = ("MobileNetV2, 96 px", "ResNet-20, 32 px")
NPU = "ethos-u55-128"
NPU_NAMES = ("ResNet-8, 32 px", "MobileNetV1 0.25, 96 px", "MobileNetV2, 96 px")


Times = tuple[LatencyTable, Callable[[keras.Model], float]]
"""A table of operators, and a function that returns the milliseconds of a model."""


def on_litert(model: keras.Model) -> Times:
    """Measure on this machine."""
    table = LatencyTable(device_name())
    fill(table, model, subjects.timer)

    def milliseconds(compact: keras.Model) -> float:
        content = file_of(compact, "float32", "float32")
        return subjects.timer(content, 1, 50, 0.5)

    return table, milliseconds


def on_npu(model: keras.Model) -> Times:
    """Estimate by the compiler of the NPU."""
    runtime = runtimes.get(NPU)
    table = LatencyTable(runtime.device, NPU, "int8")
    fill(table, model, runtime.measure, runtime)

    def milliseconds(compact: keras.Model) -> float:
        content = file_of(compact, "int8", "int8")
        return float(runtime.compile(content).milliseconds)

    return table, milliseconds


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


def run(
    name: str, options: Any, times: Callable[[keras.Model], Times]
) -> dict[str, Any]:
    """Measure all ways and targets of one network."""
    model = subjects.build(name, folder=options.models)
    accuracy, data = None, {}
    if name in READERS:
        accuracy, samples = READERS[name](model, options)
        data = {"data": samples, "recover": "reconstruct"}
    table, milliseconds = times(model)
    full = milliseconds(model)
    rows, once = [], OnceOutputError()
    for way in (*WAYS, *(WITH_SAMPLES if data else ())):
        for share in targets(way):
            masked = prune(model, way, share, table, once, **data)
            compact = kprune.rebuild(masked)
            row = {
                "way": way,
                "share": share,
                "latency": round(milliseconds(compact) / full, 4),
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
        "device": table.device,
        "milliseconds": round(full, 5),
        "accuracy": None if accuracy is None else accuracy(model),
        "rows": rows,
    }


def _resnet20(model: keras.Model, options: Any) -> Any:
    import cifar10_resnet as example

    from kprune.data import normalize_cifar10

    example.load_weights(model, options.weights / "cifar10_resnet20.npz")
    return _cifar10(normalize_cifar10, options)


def _resnet8(model: keras.Model, options: Any) -> Any:
    return _cifar10(lambda images: images.astype("float32"), options)


def _cifar10(prepare: Callable[[np.ndarray], np.ndarray], options: Any) -> Any:
    from kprune.data import load_cifar10

    images, labels = load_cifar10("test[5000:]", options.data_dir)
    x = prepare(images)
    samples, _ = load_cifar10(f"train[:{SAMPLES}]", options.data_dir)

    def accuracy(network: keras.Model) -> float:
        found = network.predict(x, batch_size=500, verbose=0).argmax(1)
        return round(100 * float((found == labels).mean()), 2)

    return accuracy, prepare(samples)


READERS = {"ResNet-20, 32 px": _resnet20, "ResNet-8, 32 px": _resnet8}
"""Functions that return one that measures accuracy, and samples."""
