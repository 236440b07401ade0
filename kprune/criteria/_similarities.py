"""How similar filters are, and which can stand in for which."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import NamedTuple

import numpy as np

from kprune.arguments import choice
from kprune.criteria.base import filters

if TYPE_CHECKING:
    from kprune.graph import Group


def distances(rows: np.ndarray) -> np.ndarray:
    """Return the Euclidean distances `(n, n)` between rows."""
    squares = (rows * rows).sum(axis=1)
    squared = squares[:, None] + squares[None, :] - 2.0 * rows @ rows.T
    np.fill_diagonal(squared, 0.0)
    return np.sqrt(np.maximum(squared, 0.0))


def similarities(
    rows: np.ndarray, measure: str = "cosine"
) -> tuple[np.ndarray, float]:
    """Return how similar filters are.

    Args:
        rows: `(n, d)` filters, none of them 0.
        measure: See `Similarity`.

    Returns:
        `(n, n)` similarities, and a value that none of them is below.
    """
    function, least = MEASURES[measure]
    matrix = function(rows)
    if least == -np.inf:
        # A distance has no largest value: one beyond those that there are.
        least = float(matrix.min()) - 1.0
    # Products of matrices are symmetric up to rounding only, which would
    # decide between filters that are equally similar to all.
    matrix = (matrix + matrix.T) / 2.0
    np.fill_diagonal(matrix, 1.0)
    return matrix, least


def _cosine(rows: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = rows / np.where(lengths > 0, lengths, 1.0)
    return np.clip(unit @ unit.T, -1.0, 1.0)


def _pearson(rows: np.ndarray) -> np.ndarray:
    centred = rows - rows.mean(axis=1, keepdims=True)
    # What is left of a constant filter is rounding: it has no direction.
    noise = 1e-12 * np.abs(rows).max(axis=1)
    centred[np.abs(centred).max(axis=1) <= noise] = 0.0
    return _cosine(centred)


def _euclidean(rows: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(rows, axis=1)
    return 1.0 - distances(rows) / (lengths[:, None] + lengths[None, :])


def _distance(rows: np.ndarray) -> np.ndarray:
    return 1.0 - distances(rows) / np.linalg.norm(rows, axis=1).mean()


MEASURES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float]] = {
    "distance": (_distance, -np.inf),
    "cosine": (_cosine, -1.0),
    "pearson": (_pearson, -1.0),
    "euclidean": (_euclidean, 0.0),
}


class Twins(NamedTuple):
    """The stand-ins for the filters of a group.

    Args:
        donors: `(size,)` integers: of each filter that goes the most similar
            one that is kept; of one that is kept itself.
        scales: `(size,)` what to multiply the donor with to come nearest to
            the filter. 0 where it points the other way or is 0.
    """

    donors: np.ndarray
    scales: np.ndarray


def twins(group: Group, mask: np.ndarray, measure: str = "cosine") -> Twins:
    """Find the kept filter that can stand in for each one that goes.

    To merge instead of to delete, a layer that reads the channels adds the
    weights of a removed one, times its scale, to those of its donor. This is
    exact for parallel filters without bias or BatchNormalization, behind an
    activation with `f(a x) = a f(x)` for a > 0, such as ReLU.

    Args:
        group: The channels, with the weights of those that go still in place.
        mask: `(size,)`, 0 for those that go.
        measure: See `Similarity`.

    Returns:
        `Twins`.

    Raises:
        ValueError: The mask has another shape, or nothing is kept that is not
            0; an unknown measure.

    Example:

    ```python
    donors, scales = kprune.criteria.twins(graph["conv1"], mask)
    ```
    """
    choice(measure, "twins", "measure", MEASURES)
    kept = np.asarray(mask) != 0
    rows = filters(group)
    if kept.shape != (group.size,):
        raise ValueError(
            f"The mask of group '{group.name}' must have shape ({group.size},). "
            f"Received shape {kept.shape}."
        )
    lives = rows.any(axis=1)
    if not (kept & lives).any():
        raise ValueError(
            f"Group '{group.name}' keeps no filter other than 0 that could stand "
            f"in for others. Received a mask that keeps {int(kept.sum())} of "
            f"{group.size}."
        )
    donors, scales = np.arange(group.size), kept.astype("float64")
    candidates = np.flatnonzero(kept & lives)
    lost = np.flatnonzero(~kept)
    donors[lost] = candidates[0]
    lost = np.flatnonzero(~kept & lives)
    alike, _ = similarities(rows[np.r_[lost, candidates]], measure)
    best = alike[: len(lost), len(lost) :].argmax(axis=1)
    donors[lost] = candidates[best]
    products = (rows[lost] * rows[donors[lost]]).sum(axis=1)
    squares = (rows[donors[lost]] ** 2).sum(axis=1)
    scales[lost] = np.maximum(products / squares, 0.0)
    return Twins(donors, scales)
