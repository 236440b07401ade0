"""The base class of allocations by measured losses."""

from __future__ import annotations

import abc
import logging

import numpy as np

from kprune.allocation._solver import by_priority
from kprune.allocation.base import RankedAllocation
from kprune.allocation.base import Request
from kprune.allocation.base import Vectors
from kprune.allocation.base import solve_ranked
from kprune.arguments import count_or_all
from kprune.duplication.redundancy import Redundancy
from kprune.session import Session

logger = logging.getLogger("kprune")

TIE = 1e-9
"""Share of the largest threshold that orders channels of equal thresholds."""


class MeasuredAllocation(RankedAllocation):
    """Base class of allocations that rank channels by losses measured per group.

    Args:
        samples: Number of samples to measure the loss on, drawn at random once; None
            for all.
        keep_min: Smallest number of channels that each group keeps.
        max_share: Largest share of a group's channels to remove.
    """

    needs_loss = True
    # More would violate the tolerance in groups whose filters are cheap.
    restore = 1

    def __init__(
        self, samples: int | None, keep_min: int, max_share: float
    ) -> None:
        super().__init__(keep_min, max_share)
        self.samples = count_or_all(
            samples, type(self).__name__, "samples", "samples"
        )
        # The result of the last call, for printing.
        self.redundancy: Redundancy | None = None

    @abc.abstractmethod
    def measure(
        self, request: Request, session: Session | None
    ) -> list[np.ndarray]:
        """Return increases of the loss per group, of shape `(alive channels + 1,)`.

        Entry n is the increase with the n lowest-scored channels replaced. Entries
        never fall.
        """

    @abc.abstractmethod
    def thresholds(self, rises: list[np.ndarray]) -> list[np.ndarray]:
        """Return, for each group, the tolerance at which each channel is removed."""

    def priorities(
        self, request: Request, session: Session | None
    ) -> list[np.ndarray]:
        return self._ranked(request, self.measure(request, session))

    def _ranked(
        self, request: Request, rises: list[np.ndarray]
    ) -> list[np.ndarray]:
        thresholds = self.thresholds(rises)
        finite = [t[np.isfinite(t)] for t in thresholds]
        most = max((f.max(initial=0.0) for f in finite), default=0.0) or 1.0
        vectors = []
        for name, values in zip(request.names, thresholds, strict=True):
            alive = request.alive[name].astype(bool)
            order = by_priority(request.scores[name], alive)
            # If the loss does not rise, the scores decide.
            step = TIE * most * np.arange(1, order.size + 1) / alive.size
            vector = np.zeros(alive.size)
            vector[order] = (
                np.where(np.isfinite(values), values, 2 * most) + step
            )
            vectors.append(vector)
        return vectors

    def solve(self, request: Request, session: Session | None) -> Vectors:
        self.check(request)
        rises = self.measure(request, session)
        kept = solve_ranked(
            request,
            self._ranked(request, rises),
            self.min_channels(request),
            self.restore,
        )
        self.redundancy = _report(request, rises, kept)
        logger.info("%s", self.redundancy)
        return kept


def _report(
    request: Request, rises: list[np.ndarray], kept: Vectors
) -> Redundancy:
    left = np.array([int(kept[name].sum()) for name in request.names])
    gone = request.alive_counts - left
    costs, full = request.cost_model.evaluate(left), request.cost_model.full
    return Redundancy(
        tuple(request.names),
        request.sizes,
        left,
        np.array([r[n] for r, n in zip(rises, gone, strict=True)]),
        {key: 1.0 - float(costs[key]) / full[key] for key in full},
    )


def every_count(
    counted: np.ndarray, rises: np.ndarray, most: int
) -> np.ndarray:
    """Return the increase for each count from 0 to `most`, interpolated linearly."""
    rises = np.maximum.accumulate(np.maximum(rises, 0.0))
    finite = np.isfinite(rises)
    every = np.arange(most + 1)
    line = np.interp(every, counted[finite], rises[finite])
    if not finite.all():
        line[every > counted[finite][-1]] = np.inf
    return line
