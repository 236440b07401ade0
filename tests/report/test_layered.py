"""Boxes in rows: nothing overlaps, edges go down, lines run straight."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from kprune.report.layered import GAP
from kprune.report.layered import layered_layout

WIDTH = 100.0


def random_graph(seed: int, count: int = 30) -> list[tuple[int, int]]:
    """Every box but the first reads one to three earlier ones."""
    rng = np.random.default_rng(seed)
    edges = set()
    for target in range(1, count):
        sources = rng.integers(max(0, target - 8), target, rng.integers(1, 4))
        edges |= {(int(source), target) for source in sources}
    return sorted(edges)


def crossings(layout) -> int:
    """Pairs of lines that swap sides between two rows."""
    steps = {
        pair for route in layout.routes for pair in itertools.pairwise(route)
    }
    return sum(
        a[1] == c[1] and a[0] < c[0] and b[0] > d[0]
        for (a, b), (c, d) in itertools.permutations(steps, 2)
    )


@pytest.mark.parametrize("seed", range(5))
def test_boxes_stand_apart_and_edges_go_down(seed):
    edges = random_graph(seed)
    layout = layered_layout(30, edges, WIDTH)
    assert all(layout.rows[a] < layout.rows[b] for a, b in edges)
    places = sorted(zip(layout.rows, layout.x, strict=True))
    for (row, x), (next_row, next_x) in itertools.pairwise(places):
        assert row != next_row or next_x - x >= WIDTH + GAP - 1e-6
    assert min(layout.x) >= WIDTH / 2 - 1e-6
    assert max(layout.x) + WIDTH / 2 <= layout.width + 1e-6


@pytest.mark.parametrize("seed", range(5))
def test_lines_pass_every_row_once_and_beside_the_boxes(seed):
    edges = random_graph(seed)
    layout = layered_layout(30, edges, WIDTH)
    assert any(len(route) > 2 for route in layout.routes)
    for (source, target), route in zip(edges, layout.routes, strict=True):
        first, last = layout.rows[source], layout.rows[target]
        assert [row for _, row in route] == list(range(first, last + 1))
        assert route[0][0] == layout.x[source]
        assert route[-1][0] == layout.x[target]
        for x, row in route[1:-1]:
            for box, box_row in enumerate(layout.rows):
                if box_row == row:
                    assert abs(layout.x[box] - x) > WIDTH / 2


def test_a_shortcut_goes_round_a_straight_chain():
    edges = [(0, 1), (1, 2), (2, 3), (3, 4), (0, 3)]
    layout = layered_layout(5, edges, WIDTH)
    assert layout.rows == [0, 1, 2, 3, 4]
    assert np.ptp(layout.x) == pytest.approx(0)
    bends = [x for x, _ in layout.routes[4][1:-1]]
    assert bends[0] == pytest.approx(bends[1])
    assert abs(bends[0] - layout.x[0]) > WIDTH / 2


def test_crossings_that_can_be_avoided_are():
    # Numbered so that the natural order crosses: 0 reaches 3, 1 reaches 2.
    edges = [(0, 3), (1, 2), (2, 4), (3, 5)]
    assert crossings(layered_layout(6, edges, WIDTH)) == 0


def test_a_second_input_stands_just_above_its_reader():
    edges = [(0, 2), (2, 3), (3, 4), (1, 4)]
    assert layered_layout(5, edges, WIDTH).rows == [0, 2, 1, 2, 3]


def test_boxes_without_edges():
    layout = layered_layout(2, [], WIDTH)
    assert layout.rows == [0, 0]
    assert abs(layout.x[0] - layout.x[1]) == pytest.approx(WIDTH + GAP)
    assert layered_layout(1, [], WIDTH).x == [WIDTH / 2]
    assert layered_layout(0, [], WIDTH).width == 0
