"""Similarities of filters, and the best substitutes for removed ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import NamedTuple

import numpy as np

from kprune.arguments import choice
from kprune.criteria.base import filters
from kprune.graph.norms import norm_paths
from kprune.graph.registry import batch_norm_of

if TYPE_CHECKING:
    from kprune.graph import Group


def distances(rows: np.ndarray) -> np.ndarray:
    """Return the Euclidean distances between rows, of shape `(n, n)`."""
    squares = (rows * rows).sum(axis=1)
    squared = squares[:, None] + squares[None, :] - 2.0 * rows @ rows.T
    np.fill_diagonal(squared, 0.0)
    return np.sqrt(np.maximum(squared, 0.0))


def similarities(
    rows: np.ndarray, measure: str = "cosine"
) -> tuple[np.ndarray, float]:
    """Return the similarities of filters.

    Args:
        rows: Filters of shape `(n, d)`, none of them 0.
        measure: See `Similarity`.

    Returns:
        Similarities of shape `(n, n)`, and a lower bound for them.
    """
    function, least = MEASURES[measure]
    matrix = function(rows)
    if least == -np.inf:
        # Distances have no upper bound, so take a value below all that occur.
        least = float(matrix.min()) - 1.0
    # Matrix products are symmetric only up to rounding, which must not decide
    # between equally similar filters.
    matrix = (matrix + matrix.T) / 2.0
    np.fill_diagonal(matrix, 1.0)
    return matrix, least


def _cosine(rows: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = rows / np.where(lengths > 0, lengths, 1.0)
    return np.clip(unit @ unit.T, -1.0, 1.0)


def _pearson(rows: np.ndarray) -> np.ndarray:
    centred = rows - rows.mean(axis=1, keepdims=True)
    # A centred constant filter has only rounding errors: it has no direction.
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


def acting_filters(group: Group) -> tuple[np.ndarray, np.ndarray]:
    """Return filters as the layers behind them see them, and the size of their outputs.

    After a BatchNormalization, outputs have the size of `gamma`, whatever the norm of
    the filter, and a negative `gamma` flips the sign of the filter. The first
    BatchNormalization on the producer's own path counts.

    Args:
        group: The channels.

    Returns:
        `filters(group)`, each producer's times the sign of its `gamma`, and an array
        of shape `(size,)`: the root of the summed squares over all normalisations,
        and over the filters without one.
    """
    gammas, paths = _gammas(group), norm_paths(group.graph)
    rows, squares = [np.zeros((group.size, 0))], {}
    for member in group.producers:
        if member.name == "bias":
            continue
        kernel = member.matrix().astype("float64")
        norms = [id(n) for n in paths[id(member.layer)].norms]
        norm = next((n for n in norms if n in gammas), None)
        if norm is None:
            squares[id(member)] = (kernel**2).sum(axis=1)
        else:
            # Producers that share a normalisation are added up before it.
            squares[norm] = gammas[norm] ** 2
            kernel *= np.sign(gammas[norm])[:, None]
        rows.append(kernel)
    sizes = np.sqrt(sum(squares.values(), np.zeros(group.size)))
    return np.concatenate(rows, axis=1), sizes


def _gammas(group: Group) -> dict[int, np.ndarray]:
    """Return the scales of each batch normalisation by `id(layer)`; 1 without."""
    found: dict[int, np.ndarray] = {}
    for member in group.members:
        norm = batch_norm_of(member.layer)
        if norm is None:
            continue
        if norm.gamma is None:
            found[id(member.layer)] = np.ones(group.size)
        elif member.variable is norm.gamma:
            gamma = member.matrix().astype("float64").mean(axis=1)
            found[id(member.layer)] = gamma
    return found


def closest(
    rows: np.ndarray, kept: np.ndarray, measure: str = "cosine"
) -> np.ndarray:
    """Return the donor of each filter: the most similar kept one, or itself if kept.

    Args:
        rows: Filters of shape `(n, d)`. Some kept one is not 0.
        kept: Booleans of shape `(n,)`.
        measure: See `Similarity`.

    Returns:
        Integers of shape `(n,)`. Filters that are 0 get any kept one that is not.
    """
    lives = rows.any(axis=1)
    donors = np.arange(len(rows))
    candidates = np.flatnonzero(kept & lives)
    donors[~kept] = candidates[0]
    lost = np.flatnonzero(~kept & lives)
    alike, _ = similarities(rows[np.r_[lost, candidates]], measure)
    best = alike[: len(lost), len(lost) :].argmax(axis=1)
    donors[lost] = candidates[best]
    return donors


class Twins(NamedTuple):
    """Substitutes for the filters of a group.

    Args:
        donors: Integers of shape `(size,)`: for each removed filter the most
            similar kept one; for each kept filter itself.
        scales: Array of shape `(size,)`: the factor on the donor that best
            approximates the filter; 0 for filters that are 0 or point in the
            opposite direction.
    """

    donors: np.ndarray
    scales: np.ndarray


def twins(group: Group, mask: np.ndarray, measure: str = "cosine") -> Twins:
    """Find the best kept substitute for each removed filter.

    To merge filters instead of deleting them, add the weights that read a removed
    channel, times its scale, to those that read its donor. This is exact for
    parallel filters without bias or BatchNormalization, followed by an activation
    with `f(a x) = a f(x)` for a > 0, such as ReLU.

    Args:
        group: The channels; the weights of removed ones must still be in place.
        mask: Vector of shape `(size,)`, 0 = removed.
        measure: See `Similarity`.

    Returns:
        `Twins`.

    Raises:
        ValueError: If the mask has another shape, all kept filters are 0, or the
            measure is unknown.

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
    if not rows[kept].any():
        raise ValueError(
            f"All filters that group '{group.name}' keeps are 0, so none can replace "
            f"others. Received a mask that keeps {int(kept.sum())} of {group.size}."
        )
    donors, scales = closest(rows, kept, measure), kept.astype("float64")
    lost = np.flatnonzero(~kept)
    products = (rows[lost] * rows[donors[lost]]).sum(axis=1)
    squares = (rows[donors[lost]] ** 2).sum(axis=1)
    scales[lost] = np.maximum(products / squares, 0.0)
    return Twins(donors, scales)
