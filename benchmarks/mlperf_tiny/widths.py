"""Find the widths of ResNet-8 with the most MACs within two limits of an Ethos-U.

Vela estimates time and SRAM at all widths of a grid. Both fall in steps and depend on
how Vela orders and fuses operators, so a sum over operators is not accurate enough.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import suite

sys.path.append(str(Path(__file__).resolve().parents[1] / "methods"))

import common

import kprune
from kprune.latency import runtimes
from kprune.latency.conversion import Conversion

LIMIT = 0.6
"""Largest remaining share of time and of SRAM."""

GRID = (
    (5, 6, 7),
    (8, 16),
    (24, 32),
    (16, 24, 32),
    (32, 40, 48, 56, 64),
    (24, 32, 40, 48),
)
"""Channels of each group, in the order of the groups."""

SHOWN = 20


@dataclasses.dataclass(frozen=True)
class Task:
    """The search and its result file."""

    path: Path

    def config(self) -> dict[str, Any]:
        """Return the setting for the result file."""
        grid = [list(widths) for widths in GRID]
        return {"network": "ic", "limit": LIMIT, "grid": grid}

    def done(self, setting: Any) -> bool:
        return common.done(self.path, self.config())


def tasks(results: Path) -> list[Task]:
    """Return the runs."""
    return [Task(results / "widths-ic.json")]


def run(task: Task, folder: Path) -> dict[str, Any]:
    """Return the widths within the limits, those with the most MACs first."""
    model = suite.build("ic", folder)
    tried, fitting = search(model, GRID)
    return {
        "setting": task.config(),
        "tried": tried,
        "fitting": len(fitting),
        "final": fitting[:SHOWN],
    }


def search(
    model: keras.Model, grid: Sequence[Sequence[int]]
) -> tuple[int, list[dict[str, Any]]]:
    """Return the number of widths tried, and those within the limits."""
    masked = kprune.wrap(model)
    costs = kprune.Session(masked).cost_model
    conversion = Conversion(masked, "int8", "int8")
    device = runtimes.get(suite.NPU)
    full = device.compile(conversion.contents[0])
    fitting, tried = [], 0
    for kept in itertools.product(*grid):
        said = device.compile(conversion.whole(np.array(kept)))
        tried += 1
        row = {
            "kept": list(kept),
            "time": round(said.milliseconds / full.milliseconds, 4),
            "sram": round(said.sram / full.sram, 4),
            **_left(costs, kept),
        }
        if max(row["time"], row["sram"]) <= LIMIT:
            fitting.append(row)
    return tried, sorted(fitting, key=lambda row: -row["macs"])


def _left(costs: Any, kept: Sequence[int]) -> dict[str, float]:
    found = costs.evaluate(list(kept))
    return {
        key: round(float(found[key] / costs.full[key]), 4)
        for key in ("macs", "params")
    }
