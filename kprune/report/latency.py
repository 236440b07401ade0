"""Show latency tables as text."""

from __future__ import annotations

import re

from rich.table import Table
from rich.text import Text

from kprune.latency.table import LatencyTable
from kprune.latency.table import Point
from kprune.report import units

_TENSOR = re.compile(r"([#=]?)[A-Z0-9]+\[([^]]*)\]")


def latency_summary(table: LatencyTable) -> str:
    """Describe the settings of a table, its steps and its models.

    Args:
        table: A `LatencyTable`.

    Returns:
        Lines of text.

    Example:

    ```python
    print(latency_summary(kprune.latency.load("phone.json")))
    ```
    """
    lines = [str(table)]
    if table.overhead is not None:
        lines.append(f"overhead of a run: {units.milliseconds(table.overhead)}")
    for kind, (read, write) in sorted(table.steps.items()):
        lines.append(f"{kind} reads {_at_once(read)}, writes {_at_once(write)}")
    for name in table.models:
        layout = table.layout(name)
        count = len(layout.operators) if layout else 0
        line = f"model {name}: {count} operators"
        if wholes := table.wholes(name):
            _, unpruned = max(wholes, key=lambda whole: sum(whole[0]))
            line += f", {units.milliseconds(unpruned)} unpruned, as measured"
        lines.append(line)
    return "\n".join(lines)


def latency_rows(table: LatencyTable) -> Table:
    """Return the operators of a table with their measured widths and times.

    Args:
        table: A `LatencyTable`.

    Returns:
        A `rich` table. Shapes are those of the inputs, a kernel and the outputs,
        with `r` and `w` instead of the width read and the width written.
    """
    drawn = Table()
    drawn.add_column("operator", no_wrap=True)
    drawn.add_column("shapes", overflow="fold")
    for column in ("read", "written", "points", "time"):
        drawn.add_column(column, justify="right")
    for key in table.keys:
        kind, _, rest = key.partition("(")
        points = table.points(key)
        drawn.add_row(
            kind,
            Text(_shapes(rest)),
            _span([read for read, _, _ in points]),
            _span([write for _, write, _ in points]),
            str(len(points)),
            _times(points),
        )
    return drawn


def _shapes(key: str) -> str:
    """Return the shapes of the inputs, the first constant and the outputs."""
    roles: dict[str, list[str]] = {"": [], "#": [], "=": []}
    for role, shape in _TENSOR.findall(key):
        # Write the width itself without the factor 1.
        roles[role].append(re.sub(r"\b1([rw])", r"\1", shape))
    return " → ".join(
        [
            " ".join([*roles[""], *(f"({s})" for s in roles["#"][:1])]),
            *roles["="],
        ]
    )


def _at_once(step: int) -> str:
    return f"{step} channels at once" if step > 1 else "channel by channel"


def _span(widths: list[int]) -> str:
    low, high = min(widths), max(widths)
    if high == 0:
        return units.MISSING
    return str(high) if low == high else f"{low} to {high}"


def _times(points: list[Point]) -> str:
    times = [ms for _, _, ms in points]
    low, high = map(units.milliseconds, (min(times), max(times)))
    return high if low == high else f"{low.removesuffix(' ms')} to {high}"
