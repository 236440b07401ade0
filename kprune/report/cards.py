"""Cards that notebooks show for objects, as HTML without scripts.

A card has no background and uses the colour of the surrounding text, so that it is
readable in any theme.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

from rich.table import Table as RichTable

from kprune.cost import Cost
from kprune.export.report import ExportReport
from kprune.graph import ChannelGraph
from kprune.graph.group import Member
from kprune.parts import code
from kprune.recipes._page import task
from kprune.recipes.base import Recipe
from kprune.report import plots
from kprune.report import units
from kprune.report.run import curves
from kprune.report.run import headline
from kprune.report.run import results
from kprune.report.templating import template
from kprune.runs.run import Run
from kprune.sensitivity import Sensitivity


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of a card.

    Args:
        columns: Titles of the columns.
        rows: Cells as text.
        texts: Number of columns, from the left, that hold text. The others hold
            numbers.
        title: Title to click on to see the table. Without one the table is always
            visible.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int = 1
    title: str = ""


@dataclasses.dataclass(frozen=True)
class Card:
    """The content of a card, from top to bottom.

    Args:
        title: Name of the object.
        kind: Kind of the object.
        lines: Sentences.
        pictures: SVG elements.
        tables: Tables.
        link: Address to read more, or `""`.
    """

    title: str
    kind: str
    lines: Sequence[str] = ()
    pictures: Sequence[str] = ()
    tables: Sequence[Table] = ()
    link: str = ""


def html(thing: Any) -> str:
    """Return an object as HTML, to embed in a page.

    Args:
        thing: An object that has a card.

    Raises:
        ImportError: jinja2 or matplotlib is not installed.
        TypeError: The object has no card.
    """
    return str(template("card.html", "A card").render(card=card(thing)))


@functools.singledispatch
def card(thing: Any) -> Card:
    """Return the card of an object.

    Raises:
        TypeError: It has none.
    """
    raise TypeError(f"{type(thing).__name__} has no card.")


@card.register
def _graph(graph: ChannelGraph) -> Card:
    prunable = [
        (g.name, _layers(g.producers), _layers(g.consumers), f"{g.size:,}")
        for g in graph.prunable
    ]
    pinned = [
        (g.name, g.pinned or "", f"{g.size:,}")
        for g in graph.groups
        if g.pinned is not None and g.producers
    ]
    found = graph.coverage
    tables = [
        Table(("group", "written by", "read by", "channels"), prunable, 3)
    ]
    if pinned:
        title = f"Pinned groups: {len(pinned)}"
        tables.append(Table(("group", "reason", "channels"), pinned, 2, title))
    return Card(
        graph.model.name,
        "channel graph",
        [
            f"{found.prunable:,} of {found.total:,} channels prunable "
            f"({units.percent(found.share)})"
        ],
        tables=tables,
    )


@card.register
def _cost(cost: Cost) -> Card:
    rows = [
        (
            row.name,
            row.kind,
            f"{row.macs:,}",
            f"{row.params:,}",
            f"{row.bytes:,}",
        )
        for row in cost.table
    ]
    columns = ("layer", "class", "MACs", "parameters", "bytes")
    return Card(
        f"{units.count(cost.macs)} MACs",
        "cost",
        [
            f"{units.count(cost.params)} parameters, "
            f"{units.size(cost.bytes)} of weights"
        ],
        tables=[Table(columns, rows, 2, f"Layers: {len(rows)}")],
    )


@card.register
def _export(report: ExportReport) -> Card:
    # Each line of the text is a fact; the first one is the headline.
    first, *lines = str(report).splitlines()
    facts = [line.strip().partition(": ") for line in lines]
    return Card(
        report.path.name,
        f"{report.format} {report.quantize or ''}".strip(),
        [first, *(name for name, _, value in facts if not value)],
        tables=[
            Table(
                ("", ""),
                [(name, value) for name, _, value in facts if value],
                2,
            )
        ],
    )


@card.register
def _recipe(recipe: Recipe) -> Card:
    tables = [
        Table(
            ("part", "value"),
            [(n, code(v)) for n, v in recipe.parts.items()],
            2,
        )
    ]
    if recipe.phases():
        tables.insert(0, Table(("when", "what happens"), recipe.phases(), 2))
    return Card(
        recipe.name,
        "recipe",
        [recipe.summary, task(recipe), recipe.citation],
        tables=[table for table in tables if table.rows],
        link=recipe.url,
    )


@card.register
def _sensitivity(found: Sensitivity) -> Card:
    return Card(
        f"Sensitivity of {len(found.curves)} groups",
        "",
        [
            "The cost of removing filters from one group while the others keep theirs."
        ],
        [plots.sensitivities(found, metric) for metric in found.baseline],
        [_from_rich(found.table(metric)) for metric in found.baseline],
    )


@card.register
def _run(run: Run) -> Card:
    record = run.record
    columns, rows = results(record)
    groups = [
        (g["name"], f"{g['size'] - len(g['removed'])} of {g['size']}")
        for g in record["groups"]
        if not g["pinned"]
    ]
    picture = curves(record)
    lines = [headline(record), str(run.folder)]
    if record["error"]:
        lines.insert(0, f"The run failed. {record['error']}")
    return Card(
        f"{record['model']['name']}, {record['method']}",
        f"run, {record['status']}",
        [line for line in lines if line],
        [picture] if picture else [],
        [
            Table(
                ("", *columns),
                [
                    (
                        row["name"],
                        *(" ".join(filter(None, c)) for c in row["cells"]),
                    )
                    for row in rows
                ],
            ),
            Table(("group", "kept"), groups, 1, f"Groups: {len(groups)}"),
        ],
    )


def _layers(members: Iterable[Member]) -> str:
    return ", ".join(dict.fromkeys(member.layer.name for member in members))


def _from_rich(table: RichTable) -> Table:
    cells = [[str(cell) for cell in column.cells] for column in table.columns]
    return Table(
        [str(column.header) for column in table.columns],
        list(zip(*cells, strict=True)),
        title=str(table.title),
    )
