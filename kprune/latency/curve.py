"""From measured widths to all widths: the staircase of an operator's time.

The time of a kernel is a staircase in the channels that it writes: it works on
`step` of them at once, and what is left over takes as long as a whole step, or
longer. Four steps are often worked on together. So a width is told by its phase,
which of four steps it is in and whether it fills it, and widths of the same phase
lie on a line over the number of steps. In the channels that a kernel reads, time is a
line over whole steps, which are often of a single channel.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence

import numpy as np

TOGETHER = 4
"""How many steps are worked on together, at most."""
_BLOCKS = 3
_READ = (1.0, 0.5, 0.25)
"""Shares of the channels read at which a kernel is measured."""
_EDGE = 0.04
"""Share of the time that one more channel must add to begin a step."""
_STEEP = 3
"""How many times as much as the channel before must have added."""
_MOST = 128


def phase(widths: np.ndarray, step: int) -> np.ndarray:
    """Return what tells alike widths from others, integers `(n,)`.

    Args:
        widths: `(n,)` widths, 1 or more.
        step: Channels that are worked on at once.
    """
    filled = widths % step == 0
    number = (widths - 1) // step % TOGETHER
    return np.asarray(2 * number + filled)


def grid(width: int, step: int) -> list[int]:
    """Return the widths to measure so that all up to `width` can be told.

    Args:
        width: The largest.
        step: Channels that are worked on at once.
    """
    every = np.arange(1, width + 1)
    # In a step that is not filled, one width stands for all.
    inside = (every % step == 0) | (every % step == (step + 1) // 2)
    candidates = every[inside]
    chosen = {width}
    kinds = phase(candidates, step)
    for kind in np.unique(kinds):
        alike = candidates[kinds == kind]
        some = np.linspace(0, len(alike) - 1, min(_BLOCKS, len(alike)))
        chosen.update(int(w) for w in alike[np.round(some).astype(int)])
    return sorted(chosen)


def anchors(width: int, step: int) -> list[int]:
    """Return the numbers of channels read at which a kernel is measured.

    Args:
        width: The largest.
        step: Channels that are read at once.
    """
    some = {max(1, round(share * width)) for share in _READ}
    return sorted({min(width, int(whole(np.array(n), step))) for n in some})


def whole(width: np.ndarray, step: int) -> np.ndarray:
    """Return widths rounded up to whole steps."""
    return -(-width // step) * step


def staircase(
    points: Iterable[tuple[int, float]], width: int, step: int
) -> np.ndarray:
    """Return the times of all widths.

    Args:
        points: Measured widths and times.
        width: The largest width.
        step: Channels that are worked on at once.

    Returns:
        `(width + 1,)` times; at width 0 nothing is done.
    """
    known = dict(points)
    measured = np.array(sorted(known))
    times = np.array([known[w] for w in measured])
    every = np.arange(1, width + 1)
    # What is in one step and does not fill it takes equally long.
    begun, wanted = -(-measured // step), -(-every // step)
    values = line(*_means(begun, times), wanted)
    kinds, asked = phase(measured, step), phase(every, step)
    for kind in np.unique(asked):
        mine = kinds == kind
        if mine.any():
            alike = asked == kind
            means = _means(begun[mine], times[mine])
            values[alike] = line(*means, wanted[alike])
    return np.concatenate([[0.0], values])


def _means(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each x once, and the mean of its values."""
    places, inverse = np.unique(x, return_inverse=True)
    return places, np.bincount(inverse, weights=y) / np.bincount(inverse)


def line(x: np.ndarray, y: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Interpolate, and go on straight at both ends, never below 0.

    Args:
        x: `(n,)` increasing.
        y: `(n,)` values there.
        wanted: Where values are wanted.
    """
    values = np.interp(wanted, x, y)
    if len(x) > 1:
        for end, near, beyond in (
            (0, 1, wanted < x[0]),
            (-1, -2, wanted > x[-1]),
        ):
            slope = (y[end] - y[near]) / (x[end] - x[near])
            values = np.where(
                beyond, y[end] + slope * (wanted - x[end]), values
            )
    # Time does not vanish: a tenth of the least that was measured.
    return np.maximum(values, 0.1 * y.min())


def find_step(measure: Callable[[int], float], width: int) -> int:
    """Return how many channels an operator works on at once.

    Args:
        measure: Time of the operator with so many channels.
        width: The largest number of channels.

    Returns:
        4, 8, 16, 32 or 64; 1 if no steps show, or there are too few channels
        for any.
    """
    edges = []
    for w in range(4, min(width - 1, _MOST) + 1, 4):
        before, here, after = (measure(n) for n in (w - 1, w, w + 1))
        if after - here > max(_EDGE * here, _STEEP * (here - before)):
            edges.append(w)
    return common_step(edges)


def common_step(edges: Sequence[int]) -> int:
    """Return the largest step whose multiples nearly all edges are.

    Args:
        edges: Widths after which one more channel takes longer.
    """
    for step in (64, 32, 16, 8, 4):
        if edges and np.mean([edge % step == 0 for edge in edges]) >= 0.8:
            return step
    return 1
