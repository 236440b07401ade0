"""Arrange the boxes of a directed graph in rows, with edges that point down."""

from __future__ import annotations

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

Edge = tuple[int, int]
SWEEPS = 12
GAP = 18.0
BEND_WIDTH = 8.0
# Weights that make long edges run straight and bend only at their ends, next to the
# boxes. Above all, the longest path should run straight.
BOX_TO_BOX = 4.0
BOX_TO_BEND = 1.0
BEND_TO_BEND = 8.0
LONGEST_PATH = 2.0


@dataclasses.dataclass(frozen=True)
class Layout:
    """Positions of the boxes and of the edges' bends.

    Args:
        x: Centres of the boxes in pixels. The leftmost box starts at 0.
        rows: Row of every box, 0 at the top.
        routes: The points `(x, row)` of every edge, including both ends.
        width: Total width in pixels.
    """

    x: list[float]
    rows: list[int]
    routes: list[list[tuple[float, int]]]
    width: float


def layered_layout(
    count: int, edges: Sequence[Edge], box_width: float
) -> Layout:
    """Arrange a directed acyclic graph in rows (Sugiyama et al., 1981).

    Each box comes below all boxes it depends on. Within the rows, sweeps order boxes
    by the mean position of their neighbours to reduce crossings. Then a linear
    program finds the positions that keep edges as straight as possible (Gansner et
    al., 1993).

    Args:
        count: Number of boxes. They are numbered so that every edge leads to a
            larger number.
        edges: Pairs of numbers of boxes.
        box_width: Width of every box in pixels.

    Returns:
        A `Layout`.

    Example:

    ```python
    layered_layout(3, [(0, 1), (1, 2), (0, 2)], box_width=100.0)
    ```
    """
    if not count:
        return Layout([], [], [[] for _ in edges], 0.0)
    rows = _rows(count, edges)
    chains, where = _with_bends(rows, edges)
    steps = list(
        dict.fromkeys((a, b) for c in chains for a, b in itertools.pairwise(c))
    )
    ordered = _ordered(where, steps)
    widths = np.full(len(where), BEND_WIDTH)
    widths[:count] = box_width
    weights = _weights(count, rows, edges, steps)
    x = _straightened(ordered, steps, widths, weights)
    x -= (x - widths / 2).min()
    routes = [[(float(x[n]), where[n]) for n in chain] for chain in chains]
    return Layout(
        [float(v) for v in x[:count]],
        rows,
        routes,
        float((x + widths / 2).max()),
    )


def _rows(count: int, edges: Sequence[Edge]) -> list[int]:
    rows = [0] * count
    below = defaultdict(list)
    for source, target in sorted(edges):
        rows[target] = max(rows[target], rows[source] + 1)
        below[source].append(target)
    targets = {target for _, target in edges}
    for box in range(count):
        # Place a second input just above its reader, not at the top.
        if box not in targets and below[box]:
            rows[box] = min(rows[b] for b in below[box]) - 1
    return rows


def _with_bends(
    rows: list[int], edges: Sequence[Edge]
) -> tuple[list[list[int]], list[int]]:
    """Return each edge as a chain of boxes and bends, one per row, and their rows."""
    where = list(rows)
    chains = []
    for source, target in edges:
        chain = [source]
        for row in range(rows[source] + 1, rows[target]):
            chain.append(len(where))
            where.append(row)
        chains.append([*chain, target])
    return chains, where


def _ordered(where: list[int], steps: list[Edge]) -> list[list[int]]:
    """Return the boxes and bends of every row from left to right."""
    ordered: list[list[int]] = [[] for _ in range(max(where) + 1)]
    for item, number in enumerate(where):
        ordered[number].append(item)
    above, below = defaultdict(list), defaultdict(list)
    for source, target in steps:
        above[target].append(source)
        below[source].append(target)
    best, fewest = ordered, _crossings(ordered, steps, where)
    for sweep in range(SWEEPS):
        if not fewest:
            break
        down = sweep % 2 == 0
        near = above if down else below
        place = {n: p for row in ordered for p, n in enumerate(row)}
        ordered = list(ordered)
        numbers = (
            range(len(ordered)) if down else range(len(ordered) - 1, -1, -1)
        )
        for number in numbers:
            row = ordered[number]
            mean = {
                n: sum(place[m] for m in near[n]) / len(near[n])
                if near[n]
                else place[n]
                for n in row
            }
            ordered[number] = sorted(row, key=lambda n: mean[n])
            place.update((n, p) for p, n in enumerate(ordered[number]))
        crossings = _crossings(ordered, steps, where)
        if crossings < fewest:
            best, fewest = ordered, crossings
    return best


def _crossings(
    ordered: list[list[int]], steps: list[Edge], where: list[int]
) -> int:
    place = {n: p for row in ordered for p, n in enumerate(row)}
    ends = defaultdict(list)
    for source, target in steps:
        ends[where[source]].append((place[source], place[target]))
    total = 0
    for pairs in ends.values():
        top, bottom = np.array(pairs).T
        left = top[:, None] < top[None]
        total += int((left & (bottom[:, None] > bottom[None])).sum())
    return total


def _weights(
    count: int, rows: list[int], edges: Sequence[Edge], steps: list[Edge]
) -> np.ndarray:
    """Return the weights for keeping each step vertical."""
    before: dict[int, list[int]] = defaultdict(list)
    for source, target in edges:
        if rows[target] == rows[source] + 1:
            before[target].append(source)
    path = set()
    box = max(range(count), key=lambda n: rows[n])
    while before[box]:
        path.add((before[box][0], box))
        box = before[box][0]
    kinds = (BEND_TO_BEND, BOX_TO_BEND, BOX_TO_BOX)
    return np.array(
        [
            kinds[(a < count) + (b < count)] + LONGEST_PATH * ((a, b) in path)
            for a, b in steps
        ]
    )


def _straightened(
    ordered: list[list[int]],
    steps: list[Edge],
    widths: np.ndarray,
    weights: np.ndarray,
) -> np.ndarray:
    """Return positions in the given order with the least weighted sideways movement."""
    import scipy.optimize
    import scipy.sparse

    items, moves = widths.size, len(steps)
    # Unknowns: the positions, then |move| of every step from above:
    # x_a - x_b - move <= 0, x_b - x_a - move <= 0, x_left - x_right <= -space.
    pairs = [(a, b) for row in ordered for a, b in itertools.pairwise(row)]
    source, target = np.array(steps, dtype=int).reshape(-1, 2).T
    left, right = np.array(pairs, dtype=int).reshape(-1, 2).T
    one = np.arange(moves)
    two, three = one + moves, np.arange(left.size) + 2 * moves
    entries = [
        (one, source, 1.0),
        (one, target, -1.0),
        (one, one + items, -1.0),
        (two, target, 1.0),
        (two, source, -1.0),
        (two, one + items, -1.0),
        (three, left, 1.0),
        (three, right, -1.0),
    ]
    if not moves and not left.size:
        return np.zeros(items)
    matrix = scipy.sparse.coo_matrix(
        (
            np.concatenate([np.full(r.size, value) for r, _, value in entries]),
            (
                np.concatenate([r for r, _, _ in entries]),
                np.concatenate([c for _, c, _ in entries]),
            ),
        ),
        shape=(2 * moves + left.size, items + moves),
    ).tocsr()
    space = (widths[left] + widths[right]) / 2 + GAP
    result = scipy.optimize.linprog(
        np.concatenate([np.zeros(items), weights]),
        A_ub=matrix,
        b_ub=np.concatenate([np.zeros(2 * moves), -space]),
        bounds=(0, None),
        method="highs",
    )
    if result.x is None:
        raise RuntimeError(
            f"The drawing could not be arranged: {result.message}"
        )
    return result.x[:items]
