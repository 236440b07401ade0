"""Allocations by how much replacement each group tolerates."""

from __future__ import annotations

import abc
import logging
from typing import Any

import numpy as np

from kprune.allocation import RankedAllocation
from kprune.allocation import Request
from kprune.allocation import register
from kprune.allocation.base import Vectors
from kprune.allocation.base import solve_ranked
from kprune.duplication.copies import Copies
from kprune.duplication.probes import ReplacementProbe
from kprune.duplication.redundancy import Redundancy
from kprune.registry import as_number
from kprune.sensitivity import SHARES
from kprune.sensitivity import Sensitivity
from kprune.sensitivity import counts
from kprune.session import Session

logger = logging.getLogger("kprune")

TIE = 1e-9
"""Share of the largest threshold that orders channels of equal thresholds."""


class _Measured(RankedAllocation):
    """Ranks channels by losses that are measured for each group alone.

    Args:
        samples: Samples on which the loss is measured, drawn at random once;
            None for all.
        keep_min: Channels that each group keeps at least.
        max_share: Largest share of a group's channels that may go.
    """

    needs_loss = True
    # More would undo the tolerance in groups whose filters cost little.
    restore = 1

    def __init__(
        self, samples: int | None, keep_min: int, max_share: float
    ) -> None:
        super().__init__(keep_min, max_share)
        if samples is not None and not as_number(samples) >= 1:
            raise ValueError(
                f"{type(self).__name__} needs a number of samples above 0, or "
                f"None for all. Received: samples={samples!r}."
            )
        self.samples = samples
        # What the last call found, to be printed.
        self.redundancy: Redundancy | None = None

    @abc.abstractmethod
    def measure(
        self, request: Request, session: Session | None
    ) -> list[np.ndarray]:
        """Return, for each group, `(living + 1,)` rises of the loss.

        The n-th entry is what it costs to replace the n channels of the
        lowest scores. Entries never fall.
        """

    @abc.abstractmethod
    def thresholds(self, rises: list[np.ndarray]) -> list[np.ndarray]:
        """Return, for each group, `(living,)` values: when the n-th goes."""

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
            living = np.flatnonzero(alive)
            scores = request.scores[name][living]
            order = living[np.argsort(scores, kind="stable")]
            # Where the loss does not rise, the scores decide.
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
            self.floors(request),
            self.restore,
        )
        self.redundancy = _report(request, rises, kept)
        logger.info("%s", self.redundancy)
        return kept


def _report(
    request: Request, rises: list[np.ndarray], kept: Vectors
) -> Redundancy:
    left = np.array([int(kept[name].sum()) for name in request.names])
    gone = request.living - left
    costs, full = request.cost_model.evaluate(left), request.cost_model.full
    return Redundancy(
        tuple(request.names),
        request.sizes,
        left,
        np.array([r[n] for r, n in zip(rises, gone, strict=True)]),
        {key: 1.0 - float(costs[key]) / full[key] for key in full},
    )


def _every(counted: np.ndarray, rises: np.ndarray, living: int) -> np.ndarray:
    """Return the rise for each count from 0 to `living`, by a line in between."""
    rises = np.maximum.accumulate(np.maximum(rises, 0.0))
    finite = np.isfinite(rises)
    every = np.arange(living + 1)
    line = np.interp(every, counted[finite], rises[finite])
    if not finite.all():
        line[every > counted[finite][-1]] = np.inf
    return line


@register("tolerance")
class Tolerance(_Measured):
    """Allocation by the loss that removing channels costs, up to a tolerance.

    For each group alone, shares of its channels are replaced by copies of
    others, the lowest scores first, and the loss is measured. One tolerance
    for all groups, found so that the target holds, then says how many go: the
    groups' structural redundancies, which `redundancy` prints afterwards. From
    "filter duplication" (Ikuta, Yata and Manabe, IWAIT 2024, DOI
    10.1117/12.3018876), whose text is not public beyond the abstract: how they
    are measured is kprune's own.

    It takes groups x shares passes over the samples.

    Args:
        copies: How channels are replaced in the trials. With the default, the
            consumer rule `"split"`, replacing equals removing, and these are
            the curves of `kprune.sensitivity`; `"naive"` measures replacement
            as such, `"absorb"` how well others stand in.
        shares: How many shares to try, from 0 to 95 %.
        samples: Samples on which the loss is measured, drawn at random once;
            None for all of `data`.
        keep_min: Channels that each group keeps at least.
        max_share: Largest share of a group's channels that may go.
        curves: Measured by `kprune.sensitivity` before, on the same model:
            nothing is measured again.

    Example:

    ```python
    tolerance = kprune.duplication.Tolerance(samples=2000)
    masked = kprune.prune(
        model, reduce={"macs": 0.5}, allocation=tolerance, data=(x, y)
    )
    print(tolerance.redundancy)
    ```
    """

    def __init__(
        self,
        copies: Copies | str = "split",
        shares: int = 20,
        samples: int | None = 1000,
        keep_min: int = 2,
        max_share: float = 0.95,
        curves: Sensitivity | None = None,
    ) -> None:
        super().__init__(samples, keep_min, max_share)
        if not as_number(shares) >= 2 or shares % 1:
            raise ValueError(
                "Tolerance needs a whole number of shares to try, 2 or more. "
                f"Received: shares={shares!r}."
            )
        if not isinstance(copies, Copies):
            copies = Copies(consumers=copies)
        self.copies = copies
        self.shares = np.linspace(0, SHARES[-1], int(shares))
        self.curves = curves
        self.needs_loss = curves is None

    def measure(
        self, request: Request, session: Session | None
    ) -> list[np.ndarray]:
        if self.curves is not None:
            return self._known(request, self.curves)
        probe = ReplacementProbe(request, session, self.copies, self.samples)
        start = probe(request.names[0], 0)
        found = []
        for name, living in zip(request.names, request.living, strict=True):
            counted = counts(int(living), self.shares) if living else [0]
            losses = [start if not n else probe(name, int(n)) for n in counted]
            rises = np.array(losses) - start
            rises[~np.isfinite(rises)] = np.inf
            found.append(_every(np.asarray(counted), rises, int(living)))
        return found

    def _known(self, request: Request, curves: Sensitivity) -> list[np.ndarray]:
        missing = [n for n in request.names if n not in curves.curves]
        if missing:
            raise ValueError(
                f"`curves` has no groups {missing}: measure it on this model, by "
                "kprune.sensitivity(model, data)."
            )
        found = []
        for group, living in zip(
            request.graph.prunable, request.living, strict=True
        ):
            curve = curves.curves[group.name]
            if curve.size != group.size:
                raise ValueError(
                    f"`curves` knows group '{group.name}' with {curve.size} "
                    f"channels, but it has {group.size}."
                )
            gone = group.size - int(living)
            every = _every(curve.removed, curve.increase(), group.size)
            found.append(every[gone:] - every[gone])
        return found

    def thresholds(self, rises: list[np.ndarray]) -> list[np.ndarray]:
        return [rise[1:] for rise in rises]


@register("importance")
class Importance(_Measured):
    """Shares of groups that fall with what a fixed share of them costs.

    For each group alone, `share` of its channels are removed, the lowest
    scores first, and the loss is measured. The group that costs most keeps
    all its channels, one that costs nothing loses the largest share, and the
    others in between by a straight line.

    It takes one pass over the samples per group.

    Args:
        share: Share of a group's channels that is tried.
        samples: See `Tolerance`.
        keep_min: See `Tolerance`.
        max_share: See `Tolerance`.

    Example:

    ```python
    masked = kprune.duplicate(model, allocation="importance", data=(x, y))
    ```
    """

    def __init__(
        self,
        share: float = 0.3,
        samples: int | None = 1000,
        keep_min: int = 2,
        max_share: float = 0.95,
    ) -> None:
        super().__init__(samples, keep_min, max_share)
        if not 0 < as_number(share) < 1:
            raise ValueError(
                "Importance needs a share between 0 and 1 to try. Received: "
                f"share={share!r}."
            )
        self.share = float(share)

    def measure(
        self, request: Request, session: Session | None
    ) -> list[np.ndarray]:
        probe = ReplacementProbe(request, session, Copies(), self.samples)
        start = probe(request.names[0], 0)
        found = []
        for name, living in zip(request.names, request.living, strict=True):
            tried = int(
                np.clip(round(self.share * living), 1, max(living - 1, 1))
            )
            rise = probe(name, tried) - start if living > 1 else 0.0
            rise = max(rise, 0.0) if np.isfinite(rise) else np.inf
            # One number per group, at whatever count.
            found.append(np.full(int(living) + 1, rise))
        return found

    def thresholds(self, rises: list[np.ndarray]) -> list[np.ndarray]:
        costs = np.array([rise[0] for rise in rises])
        finite = np.isfinite(costs)
        most = costs[finite].max(initial=0.0)
        relative = np.where(finite, costs / (most or 1.0), 1.0)
        found: list[Any] = []
        for rise, importance in zip(rises, relative, strict=True):
            living = rise.size - 1
            part = np.arange(1, living + 1) / max(living, 1)
            # The most important group is not left out for good: it goes last.
            found.append(part / max(1.0 - importance, 1e-3))
        return found
