"""Measure what pruning for one cost removes of that cost and of the others."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import suite

sys.path.append(str(Path(__file__).resolve().parents[1] / "methods"))
sys.path.append(str(Path(__file__).resolve().parents[1] / "latency"))

import common
import subjects

import kprune
from kprune.allocation import Allocation
from kprune.allocation import Ram
from kprune.latency import Latency
from kprune.latency import LatencyTable
from kprune.latency import runtimes
from kprune.latency.conversion import file_of
from kprune.latency.profiling import fill

SHARES = (0.3, 0.5)
CRITERION = "l2"

Tables = Callable[[str], LatencyTable]
"""Function that returns the table of a runtime, measured when first used."""


@dataclasses.dataclass(frozen=True)
class Way:
    """A cost, or costs, to prune for.

    Args:
        title: Title in tables.
        costs: Keys of `reduce`.
        allocation: Function that takes the tables and returns the allocation.
    """

    title: str
    costs: tuple[str, ...]
    allocation: Callable[[Tables], Allocation]


WAYS = {
    "npu": Way(
        "Ethos-U55-128 time",
        ("latency",),
        lambda tables: Latency(tables(suite.NPU)),
    ),
    "npu-ram": Way(
        "Ethos-U55-128 SRAM", ("ram",), lambda tables: Ram(runtime=suite.NPU)
    ),
    "npu-both": Way(
        "both of these",
        ("latency", "ram"),
        lambda tables: Ram(
            runtime=suite.NPU, allocation=Latency(tables(suite.NPU))
        ),
    ),
    "litert": Way(
        "LiteRT time", ("latency",), lambda tables: Latency(tables("litert"))
    ),
    "arena": Way("TFLM arena", ("ram",), lambda tables: Ram()),
    "macs": Way("MACs", ("macs",), lambda tables: kprune.allocation.Global()),
}


@dataclasses.dataclass(frozen=True)
class Task:
    """One pruning of one network and its result file."""

    network: str
    way: str
    share: float
    path: Path

    def config(self) -> dict[str, Any]:
        """Return the setting for the result file."""
        return {
            "network": self.network,
            "way": self.way,
            "reduce": {key: self.share for key in WAYS[self.way].costs},
            "criterion": CRITERION,
        }

    def done(self, setting: Any) -> bool:
        return common.done(self.path, self.config())


def tasks(networks: list[str], results: Path) -> list[Task]:
    """Return all prunings of the given networks."""
    return [
        Task(name, way, share, results / f"costs-{name}-{way}-{share:g}.json")
        for name in networks
        for way in WAYS
        for share in SHARES
    ]


class Bench:
    """The networks and their tables, cached between runs.

    Args:
        folder: Folder of the suite's files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.model = functools.lru_cache(maxsize=1)(self._model)
        self.before = functools.lru_cache(maxsize=1)(self._before)
        self.table = functools.lru_cache(maxsize=2)(self._table)

    def _model(self, network: str) -> keras.Model:
        return suite.build(network, self._folder)

    def _before(self, network: str) -> dict[str, Any]:
        return measured(self.model(network))

    def _table(self, network: str, runtime: str) -> LatencyTable:
        device = runtimes.get(runtime)
        table = LatencyTable(device.device, runtime, "int8")
        timer = subjects.timer if runtime == "litert" else device.measure
        fill(table, self.model(network), timer, device)
        return table

    def run(self, task: Task) -> dict[str, Any]:
        """Prune once, and return the result to write."""
        model = self.model(task.network)
        before = self.before(task.network)
        found = {
            "setting": task.config(),
            "title": suite.NETWORKS[task.network][0],
            "before": before,
        }
        try:
            masked = kprune.prune(
                model,
                CRITERION,
                task.config()["reduce"],
                WAYS[task.way].allocation(
                    lambda runtime: self.table(task.network, runtime)
                ),
                recover=None,
            )
        except ValueError as error:
            # Not all targets can be met, and that is a result, too.
            return {**found, "final": None, "unmet": str(error)}
        kept = {k: int(v.sum()) for k, v in kprune.masks(masked).items()}
        return {
            **found,
            "final": measured(kprune.rebuild(masked)),
            "kept": kept,
        }


def measured(model: keras.Model) -> dict[str, Any]:
    """Return all costs of a plain model after export to int8."""
    content = file_of(model, "int8", "int8")
    cost = kprune.cost(model)
    return {
        **suite.figures(content),
        "litert_milliseconds": round(subjects.timer(content, 1, 50, 0.3), 5),
        "macs": int(cost.macs),
        "params": int(cost.params),
    }


def shares(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the remaining share of each cost."""
    return {k: row["final"][k] / row["before"][k] for k in row["before"]}
