"""Time operators together with their neighbours, by compiling whole models.

A compiler that loads the weights of one operator while another runs, or fuses two,
makes an operator faster than it is alone. So operators are not cut out. Instead the
whole model is compiled several times, with new widths of all groups at once. Each
operator depends on the widths of one or two groups. The widths are chosen so that any
two groups that meet in an operator go through all pairs of their levels (an orthogonal
array of strength two: Rao, 1947), so a few dozen compilations fill the tables of all
operators.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kprune.latency.layout import Layout

if TYPE_CHECKING:
    from kprune.latency.conversion import Conversion
    from kprune.latency.table import LatencyTable

_LEVELS = (3, 5, 7, 11)
"""Possible numbers of levels. The array needs primes."""

_WHOLES = 12
"""Number of compiled models whose total time goes into the table."""

Operators = Callable[[bytes], Sequence[float]]
"""Function that returns the milliseconds of each operator of a whole file."""


def fill_in_context(
    table: LatencyTable,
    name: str,
    conversion: Conversion,
    operators: Operators,
    step: int,
    track: Callable[[list[np.ndarray]], Iterable[np.ndarray]],
) -> None:
    """Fill a table with the times of all operators of a model.

    Args:
        table: The table, changed in place.
        name: The model's fingerprint.
        conversion: The model.
        operators: See `Runtime.operators`.
        step: Number of channels that the device processes at once.
        track: Function that wraps the widths to show progress.
    """
    layout = _own(conversion.layout, name)
    sizes = np.asarray(conversion.kept[0])
    seen: dict[tuple[str, int, int], list[float]] = {}
    wholes = []
    # Groups with few channels have few levels, so widths can repeat.
    known: dict[bytes, Sequence[float]] = {}
    for kept in track(designs(layout, sizes, step)):
        if kept.tobytes() not in known:
            known[kept.tobytes()] = operators(conversion.whole(kept))
        times = known[kept.tobytes()]
        wholes.append((kept, sum(times)))
        for placed, milliseconds in zip(layout.operators, times, strict=True):
            read, write = (
                0 if width is None else int(width.of(kept))
                for width in (placed.reads, placed.writes)
            )
            seen.setdefault((placed.key, read, write), []).append(milliseconds)
    for (key, read, write), found in seen.items():
        # Vela reports 0 for operators that are fused into others.
        table.add(key, read, write, max(float(np.mean(found)), 1e-6))
    for position in range(len(layout.operators)):
        table.steps.setdefault(conversion.kind(position), (step, step))
    every = max(1, len(wholes) // _WHOLES)
    for kept, milliseconds in wholes[::every]:
        table.add_whole(name, kept, max(milliseconds, 1e-6))
    table.add_model(name, layout)


def _own(layout: Layout, name: str) -> Layout:
    """Return a layout with keys that no other model or operator shares."""
    return Layout(
        tuple(
            dataclasses.replace(placed, key=f"{placed.key} @{name}:{position}")
            for position, placed in enumerate(layout.operators)
        )
    )


def designs(layout: Layout, sizes: np.ndarray, step: int) -> list[np.ndarray]:
    """Return the widths at which to compile a model, starting with the unpruned one.

    Args:
        layout: The model's operators.
        sizes: `(groups,)` channels of each group.
        step: Number of channels that the device processes at once.

    Returns:
        A list of kept channels `(groups,)`.
    """
    most = max((-(-int(size) // step) for size in sizes), default=1)
    count = next((n for n in _LEVELS if n >= most), _LEVELS[-1])
    levels = [_levels(int(size), step, count) for size in sizes]
    slopes = _slopes(layout, len(sizes), count)
    found = [sizes.astype(int)]
    for i in range(count):
        for j in range(count):
            # A group with slope `count` depends on the first factor only.
            places = [i if m == count else (m * i + j) % count for m in slopes]
            found.append(
                np.array(
                    [
                        mine[place * len(mine) // count]
                        for mine, place in zip(levels, places, strict=True)
                    ]
                )
            )
    return found


def _levels(size: int, step: int, count: int) -> list[int]:
    """Return up to `count` whole steps up to a size, including the size itself."""
    steps = [*range(step, size, step), size]
    if len(steps) > count:
        chosen = np.rint(np.linspace(0, len(steps) - 1, count)).astype(int)
        return [steps[n] for n in chosen]
    return steps


def _slopes(layout: Layout, groups: int, count: int) -> list[int]:
    """Return a factor per group; groups that meet in an operator get different ones."""
    near: list[set[int]] = [set() for _ in range(groups)]
    for placed in layout.operators:
        together = placed.groups()
        for group in together:
            near[group] |= together - {group}
    slopes = [-1] * groups
    for group in sorted(range(groups), key=lambda g: -len(near[g])):
        taken = {slopes[other] for other in near[group]}
        free = [m for m in range(count + 1) if m not in taken]
        slopes[group] = free[0] if free else group % (count + 1)
    return slopes
