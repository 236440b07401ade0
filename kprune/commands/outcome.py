"""Show the costs, sizes and scores of models, before and after a command."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import Any

import keras
from rich.console import Console
from rich.table import Table
from rich.text import Text

import kprune
from kprune.commands.advice import Advice
from kprune.commands.scoring import Score
from kprune.export.original import measure_original
from kprune.report import units


@dataclasses.dataclass(frozen=True)
class Line:
    """Results of one model or file.

    Args:
        name: Name of the line, such as `"original"`.
        macs: Multiply-accumulate operations for one sample.
        params: Number of parameters.
        weights: Bytes of the parameters in float32, without an optimizer state or
            anything else that a training file holds.
        file: Bytes of an exported file that a runtime loads.
        score: The score.
        extra: Cells of further columns, by title.
    """

    name: str
    macs: float | None = None
    params: int | None = None
    weights: int | None = None
    file: int | None = None
    score: Score = dataclasses.field(default_factory=Score)
    extra: dict[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(
        cls,
        name: str,
        model: keras.Model,
        score: Score | None,
        extra: dict[str, str] | None = None,
    ) -> Line:
        """Return the line for a Keras model."""
        cost = kprune.cost(model)
        weights = measure_original(model).size
        score, extra = score or Score(), extra or {}
        return cls(
            name, cost.macs, cost.params, weights, score=score, extra=extra
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the model's entry in `results` of `run.json`."""
        return {
            "name": self.name,
            "macs": self.macs,
            "params": self.params,
            "bytes": self.weights if self.file is None else self.file,
            "latency": None,
            "metrics": self.score.metrics,
        }

    def check(self) -> dict[str, Any] | None:
        """Return the entry in `checks` of `run.json`, if outputs were compared."""
        if self.score.difference is None:
            return None
        return {
            "what": f"{self.name} against original",
            "difference": self.score.difference,
            "agreement": self.score.agreement,
        }

    def cells(self) -> dict[str, str]:
        """Return title -> text of the columns that are filled."""
        found = {
            **self.extra,
            "MACs": units.count(self.macs),
            "parameters": units.count(self.params),
            "weights": units.size(self.weights),
            "file": units.size(self.file),
            **{k: units.metric(k, v) for k, v in self.score.metrics.items()},
        }
        if self.score.accuracy is None:
            found["same class"] = units.percent(self.score.agreement)
        if not self.score.metrics and self.score.agreement is None:
            found["difference"] = units.percent(self.score.difference)
        return {k: v for k, v in found.items() if v != units.MISSING}


def lines_json(
    lines: Sequence[Line], samples: int | None
) -> dict[str, list[dict[str, Any]]]:
    """Return lines as `results` and `checks` of `run.json`.

    Args:
        lines: Models and files.
        samples: Number of samples that they were measured on.
    """
    found = [check for line in lines if (check := line.check()) is not None]
    return {
        "results": [{**line.to_dict(), "samples": samples} for line in lines],
        "checks": [{**check, "samples": samples} for check in found],
    }


def lines_table(lines: Sequence[Line]) -> Table:
    """Lay out lines as a table, without columns that no line fills."""
    filled = [line.cells() for line in lines]
    order = [
        *(name for line in lines for name in line.extra),
        *("MACs", "parameters", "weights", "file"),
        *(name for line in lines for name in line.score.metrics),
        *("same class", "difference"),
    ]
    columns = [
        c for c in dict.fromkeys(order) if any(c in cells for cells in filled)
    ]
    table = Table()
    table.add_column("", overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for line, cells in zip(lines, filled, strict=True):
        # Use Text, so that a name in brackets is not parsed as markup.
        texts = (Text(cells.get(c, units.MISSING)) for c in columns)
        table.add_row(Text(line.name), *texts)
    return table


def print_table(table: Table) -> None:
    """Print a table, at its full width into a file or a pipe."""
    console = Console()
    if not sys.stdout.isatty():
        wanted = console.measure(
            table, options=console.options.update(width=1000)
        )
        console = Console(width=max(console.width, wanted.maximum))
    console.print(table)


def print_json(result: dict[str, Any]) -> None:
    """Print a result as JSON, with null for numbers that are not finite."""
    text = json.dumps(result, indent=2, default=str, allow_nan=True)
    plain = json.loads(text, parse_constant=lambda name: None)
    print(json.dumps(plain, indent=2))


def advise(advice: Sequence[Advice]) -> None:
    """Print warnings to standard error."""
    for each in advice:
        each.print()
