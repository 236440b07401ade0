"""Operators timed beside their neighbours, by compiling whole models.

A compiler that loads the weights of one operator while another runs, or fuses two,
makes an operator faster than it is alone. So no operator is cut out: the whole model
is compiled at some widths of all groups at once. Each operator depends on the widths
of one group or two, and the widths are chosen so that any two groups that meet in an
operator go through all pairs of their levels (an orthogonal array of strength two:
Rao, 1947): a few dozen compilations fill the table of every operator.
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
"""Numbers of levels to choose from; primes, as the array needs."""

_WHOLES = 12
"""Models whose whole time goes into the table."""

Operators = Callable[[bytes], Sequence[float]]
"""Milliseconds of each operator of a whole file."""


def fill_in_context(
    table: LatencyTable,
    name: str,
    conversion: Conversion,
    operators: Operators,
    step: int,
    track: Callable[[list[np.ndarray]], Iterable[np.ndarray]],
) -> None:
    """Put all operators of a model into a table.

    Args:
        table: Changed in place.
        name: The model's fingerprint.
        conversion: The model.
        operators: See `Runtime.operators`.
        step: Channels that the device works on at once.
        track: Passes on what it is given, one by one.
    """
    layout = _own(conversion.layout, name)
    sizes = np.asarray(conversion.kept[0])
    seen: dict[tuple[str, int, int], list[float]] = {}
    wholes = []
    # Groups with few channels have few levels, so that widths come again.
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
        # Vela does some operators in no time: they are fused into others.
        table.add(key, read, write, max(float(np.mean(found)), 1e-6))
    for position in range(len(layout.operators)):
        table.steps.setdefault(conversion.kind(position), (step, step))
    every = max(1, len(wholes) // _WHOLES)
    for kept, milliseconds in wholes[::every]:
        table.add_whole(name, kept, max(milliseconds, 1e-6))
    table.add_model(name, layout)


def _own(layout: Layout, name: str) -> Layout:
    """Return a layout whose operators are this model's alone, each at its place."""
    return Layout(
        tuple(
            dataclasses.replace(placed, key=f"{placed.key} @{name}:{position}")
            for position, placed in enumerate(layout.operators)
        )
    )


def designs(layout: Layout, sizes: np.ndarray, step: int) -> list[np.ndarray]:
    """Return the widths at which a model is compiled, the unpruned one first.

    Args:
        layout: The model's operators.
        sizes: `(groups,)` channels of each group.
        step: Channels that the device works on at once.

    Returns:
        `(groups,)` kept channels, again and again.
    """
    most = max((-(-int(size) // step) for size in sizes), default=1)
    count = next((n for n in _LEVELS if n >= most), _LEVELS[-1])
    levels = [_levels(int(size), step, count) for size in sizes]
    slopes = _slopes(layout, len(sizes), count)
    found = [sizes.astype(int)]
    for i in range(count):
        for j in range(count):
            # A group of slope `count` goes by the first factor alone.
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
    """Return some whole steps up to a size, and the size itself."""
    steps = [*range(step, size, step), size]
    if len(steps) > count:
        chosen = np.rint(np.linspace(0, len(steps) - 1, count)).astype(int)
        return [steps[n] for n in chosen]
    return steps


def _slopes(layout: Layout, groups: int, count: int) -> list[int]:
    """Return a factor per group, others for groups that meet in an operator."""
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
