"""Predict an operator's time at all widths from the measured ones.

The time of a kernel is a staircase in the channels that it writes: it processes `step`
of them at once, and a rest takes as long as a whole step, or longer. Four steps are
often processed together. So each width has a phase: which of four steps it is in, and
whether it fills that step. The times of widths with the same phase lie on a line over
the number of steps. In the channels that a kernel reads, time is a line over whole
steps, which are often of a single channel.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence

import numpy as np

TOGETHER = 4
"""Maximum number of steps that are processed together."""
_BLOCKS = 3
_READ = (1.0, 0.5, 0.25)
"""Shares of the channels read at which to measure a kernel."""
_EDGE = 0.04
"""Share of the time that one more channel must add to begin a step."""
_STEEP = 3
"""Multiple of the time that the channel before added, which it must exceed."""
_MOST = 128


def phase(widths: np.ndarray, step: int) -> np.ndarray:
    """Return the phases of widths, integers `(n,)`.

    Args:
        widths: `(n,)` widths, 1 or more.
        step: Number of channels that are processed at once.
    """
    filled = widths % step == 0
    number = (widths - 1) // step % TOGETHER
    return np.asarray(2 * number + filled)


def grid(width: int, step: int) -> list[int]:
    """Return the widths to measure to predict all widths up to the largest.

    Args:
        width: The largest width.
        step: Number of channels that are processed at once.
    """
    every = np.arange(1, width + 1)
    # One width stands for all widths that do not fill a step.
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
    """Return the numbers of channels read at which to measure a kernel.

    Args:
        width: The largest number.
        step: Number of channels that are read at once.
    """
    some = {max(1, round(share * width)) for share in _READ}
    return sorted({min(width, int(whole(np.array(n), step))) for n in some})


def whole(width: np.ndarray, step: int) -> np.ndarray:
    """Return widths rounded up to whole steps."""
    return -(-width // step) * step


def staircase(
    points: Iterable[tuple[int, float]], width: int, step: int
) -> np.ndarray:
    """Return the times at all widths.

    Args:
        points: Measured widths and times.
        width: The largest width.
        step: Number of channels that are processed at once.

    Returns:
        `(width + 1,)` times. The time at width 0 is 0.
    """
    known = dict(points)
    measured = np.array(sorted(known))
    times = np.array([known[w] for w in measured])
    every = np.arange(1, width + 1)
    # Widths that do not fill their step take equally long.
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
    """Return each distinct x, and the mean of its values."""
    places, inverse = np.unique(x, return_inverse=True)
    return places, np.bincount(inverse, weights=y) / np.bincount(inverse)


def line(x: np.ndarray, y: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Interpolate times, and extrapolate them at both ends, always above 0.

    Args:
        x: `(n,)` increasing places.
        y: `(n,)` times there.
        wanted: `(m,)` places where times are wanted.
    """
    # Time does not vanish: it is at least a tenth of the least measured.
    return np.maximum(extrapolated(x, y, wanted), 0.1 * y.min())


def extrapolated(
    x: np.ndarray, y: np.ndarray, wanted: np.ndarray
) -> np.ndarray:
    """Interpolate, and continue the first and last segments beyond both ends.

    Args:
        x: `(n,)` increasing places.
        y: `(n,)` values there.
        wanted: `(m,)` places where values are wanted.
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
    return np.asarray(values)


def find_step(measure: Callable[[int], float], width: int) -> int:
    """Find the number of channels that an operator processes at once.

    Args:
        measure: Function of a number of channels that returns the time.
        width: The largest number of channels.

    Returns:
        4, 8, 16, 32 or 64; 1 if there are no visible steps, or too few channels
        to see any.
    """
    edges = []
    for w in range(4, min(width - 1, _MOST) + 1, 4):
        before, here, after = (measure(n) for n in (w - 1, w, w + 1))
        if after - here > max(_EDGE * here, _STEEP * (here - before)):
            edges.append(w)
    return common_step(edges)


def common_step(edges: Sequence[int]) -> int:
    """Return the largest step that divides nearly all edges; 1 if there is none.

    Args:
        edges: Widths after which one more channel takes longer.
    """
    for step in (64, 32, 16, 8, 4):
        if edges and np.mean([edge % step == 0 for edge in edges]) >= 0.8:
            return step
    return 1
