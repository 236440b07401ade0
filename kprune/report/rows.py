"""Show results of models as rows of a table."""

from __future__ import annotations

import dataclasses

from rich.table import Table
from rich.text import Text

from kprune.report import units

COLUMNS = ("", "MACs", "parameters", "file size", "latency", "test accuracy")


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of the table. Columns that do not apply are None.

    Args:
        name: Name of the row.
        macs: Multiply-accumulate operations for one example.
        params: Number of parameters.
        file: Name of the file.
        bytes: Size of the file in bytes.
        latency: Median time of one example in milliseconds, on the file's runtime.
        accuracy: Share of test examples classified correctly.
        difference: Largest difference of the file's outputs from Keras, as a
            share of the largest output.
        agreement: Share of test examples for which the file and Keras choose the
            same class.
    """

    name: str
    macs: float | None = None
    params: float | None = None
    file: str | None = None
    bytes: int | None = None
    latency: float | None = None
    accuracy: float | None = None
    difference: float | None = None
    agreement: float | None = None

    def cells(self) -> tuple[str, ...]:
        """Return the cells of the columns `COLUMNS` as text."""
        return (
            self.name,
            units.count(self.macs),
            units.count(self.params),
            units.size(self.bytes),
            units.milliseconds(self.latency),
            units.percent(self.accuracy),
        )


def _filled(rows: list[Row]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return headings and rows without the columns that no row fills."""
    lines = [row.cells() for row in rows]
    shown = [
        number
        for number in range(len(COLUMNS))
        if any(line[number] != units.MISSING for line in lines)
    ]
    head = tuple(COLUMNS[number] for number in shown)
    return head, [tuple(line[number] for number in shown) for line in lines]


def rows_table(rows: list[Row], title: str | None = None) -> Table:
    """Lay out rows as a table for the terminal.

    Args:
        rows: Rows from top to bottom.
        title: Text above the table.

    Returns:
        `rich.table.Table`, without the columns that no row fills.

    Example:

    ```python
    rich.print(rows_table([Row("original", macs=2e6), Row("compact", macs=1e6)]))
    ```
    """
    head, lines = _filled(rows)
    table = Table(title=title, title_justify="left")
    table.add_column(head[0], overflow="fold")
    for column in head[1:]:
        table.add_column(column, justify="right", no_wrap=True)
    for line in lines:
        # Use Text, so that a name in brackets is not parsed as markup.
        table.add_row(*(Text(cell) for cell in line))
    return table


def rows_markdown(rows: list[Row]) -> str:
    """Lay out rows as a Markdown table.

    Args:
        rows: Rows from top to bottom.

    Returns:
        Text, without the columns that no row fills.

    Example:

    ```python
    print(rows_markdown([Row("original", macs=2e6), Row("compact", macs=1e6)]))
    ```
    """
    head, lines = _filled(rows)
    rule = ("---",) + ("---:",) * (len(head) - 1)
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines))
