"""Allocation with one threshold over all groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from kprune.allocation.base import RankedAllocation
from kprune.allocation.base import Request
from kprune.allocation.base import register
from kprune.arguments import choice

if TYPE_CHECKING:
    from kprune.session import Session


@register("global")
class Global(RankedAllocation):
    """One threshold over all groups, for scores normalised within each group.

    Args:
        normalize: Normalisation that makes the scores of groups comparable:
            `"mean"` (score / mean of the group), `"max"`, `"l2"`, `"minmax"`
            (0 to 1), `"zscore"`, `"rank"` (0 to 1 by position) or `"none"`.
        keep_min: Smallest number of channels that each group keeps.
        max_share: Largest share of a group's channels to remove. The default
            keeps a tenth, because one threshold could otherwise reduce a group
            to a single channel, a bottleneck for all later layers.
        round_to: Groups that lose channels keep a multiple of this number, for
            example 8 if kernels process 8 channels at once.

    Example:

    ```python
    masked = kprune.prune(
        model,
        criterion="taylor",
        data=(x_train[:512], y_train[:512]),
        allocation=kprune.allocation.Global(normalize="none"),
    )
    ```
    """

    def __init__(
        self,
        normalize: str = "mean",
        keep_min: int = 1,
        max_share: float = 0.9,
        round_to: int = 1,
    ) -> None:
        super().__init__(keep_min, max_share, round_to)
        self.normalize = choice(
            normalize, "Global", "normalize", _NORMALIZATIONS
        )

    def priorities(
        self, request: Request, session: Session | None
    ) -> list[np.ndarray]:
        normalize = _NORMALIZATIONS[self.normalize]
        vectors = []
        for name in request.names:
            scores, alive = (
                request.scores[name],
                request.alive[name].astype(bool),
            )
            values = np.zeros(len(scores))
            if alive.any():
                values[alive] = normalize(scores[alive])
            vectors.append(values)
        return vectors


def _divide(scores: np.ndarray, by: float) -> np.ndarray:
    """Divide scores, or return zeros if the divisor is 0."""
    return scores / by if by else np.zeros_like(scores)


def _rank(scores: np.ndarray) -> np.ndarray:
    ranks = np.empty(len(scores))
    ranks[np.argsort(scores, kind="stable")] = np.arange(len(scores))
    return (ranks + 0.5) / len(scores)


_NORMALIZATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda s: _divide(s, np.abs(s).mean()),
    "max": lambda s: _divide(s, np.abs(s).max()),
    "l2": lambda s: _divide(s, float(np.linalg.norm(s))),
    "minmax": lambda s: _divide(s - s.min(), np.ptp(s)),
    "zscore": lambda s: _divide(s - s.mean(), s.std()),
    "rank": _rank,
    "none": lambda s: s,
}
