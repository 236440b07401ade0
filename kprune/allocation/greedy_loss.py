"""Greedy allocation by the measured loss."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any
from typing import NamedTuple

import numpy as np

from kprune.allocation._solver import by_priority
from kprune.allocation._solver import fits
from kprune.allocation._solver import put_back
from kprune.allocation.base import Allocation
from kprune.allocation.base import Request
from kprune.allocation.base import Vectors
from kprune.allocation.base import called
from kprune.allocation.base import check_reachable
from kprune.allocation.base import register
from kprune.allocation.base import require_finite
from kprune.allocation.base import within_budget
from kprune.arguments import choice
from kprune.arguments import count_or_all
from kprune.arguments import share

if TYPE_CHECKING:
    from kprune.session import Session

_log = logging.getLogger("kprune")

STEPS = {"width": 0.1, "cost": 0.01}
"""Default `step` for each value of `step_of`."""


@register("greedy_loss")
class GreedyLoss(Allocation):
    """Tries a step in every group and takes the one with the lowest loss.

    A step removes the channels with the lowest scores from one group. Its loss is
    measured on `data`, without training. Then channels are scored again and all
    steps are tried again, until the target is reached. So the widths of layers
    follow from the loss only. The last step is limited to what the target needs.
    From "Magnitude and Similarity Based Variable Rate Filter Pruning" (Ghimire
    and Kim, doi 10.3390/app13010316). The choice among criteria, and steps of
    equal cost, are from the related LAASP (arXiv 2506.20152).

    Each step takes about half a pass over the samples per group, because a pass
    begins at the first layer that changes. `lazy=True` needs far fewer, but may
    miss the cheapest step if its loss has fallen since the last measurement.

    Args:
        step: Size of a step, at least one channel. Defaults to a tenth of the
            group's current width, or to 1 % of the costs with `step_of="cost"`.
        cap: Share of a group's channels after whose removal no further steps
            start in it. At least one channel is kept.
        step_of: Whether `step` is a share of the group's current `"width"`, or
            of the unpruned model's `"cost"`, as counted by `reduce`.
        per_cost: Whether to divide the increase of the loss by the share of the
            costs that a step saves.
        criteria: Criteria to choose from in each step, instead of the one given
            to `prune` or the callback.
        samples: Number of samples to measure the loss on, drawn at random once;
            `None` for all of `data`. The paper uses 10,000.
        lazy: Whether to measure a step again only if it was the cheapest when
            last measured.

    Raises:
        ValueError: If a size is out of range.

    Example:

    ```python
    masked = kprune.prune(
        model,
        criterion="msvfp",
        reduce={"macs": 0.5},
        allocation=kprune.allocation.GreedyLoss(lazy=True),
        data=(x_train, y_train),
    )
    ```
    """

    needs_loss = True

    def __init__(
        self,
        step: float | None = None,
        cap: float = 0.7,
        step_of: str = "width",
        per_cost: bool = False,
        criteria: Sequence[Any] | None = None,
        samples: int | None = 1000,
        lazy: bool = False,
    ) -> None:
        owner = "GreedyLoss"
        self.step_of = choice(step_of, owner, "step_of", STEPS)
        step = STEPS[step_of] if step is None else step
        self.step = share(step, owner, "step", one=True)
        self.cap = share(cap, owner, "cap", one=True)
        self.samples = count_or_all(samples, owner, "samples", "samples")
        if criteria is not None and (
            isinstance(criteria, str) or not len(criteria)
        ):
            raise ValueError(
                "GreedyLoss needs a list of criteria to choose from, for example "
                f'["l1", "fpgm"]. Received: {criteria!r}.'
            )
        self.per_cost = per_cost
        self.criteria = tuple(criteria or ())
        self.lazy = lazy

    def check(self, request: Request) -> None:
        min_channels = np.floor(request.sizes * (1.0 - self.cap) + 1e-9)
        check_reachable(
            request,
            np.maximum(min_channels.astype(int), 1),
            f"cap={self.cap:g} of {type(self).__name__}",
            called(self, ["cap=1.0"] if self.cap < 1 else []),
        )

    def met(self, request: Request) -> bool:
        return within_budget(request)

    def solve(self, request: Request, session: Session | None) -> Vectors:
        self.check(request)
        if session is None:
            raise ValueError(
                "Allocation GreedyLoss measures the loss, so it needs a model. Use it "
                "with kprune.prune(..., data=(x, y)) or in a pruning callback."
            )
        search = _Search(self, request, session)
        while not search.fits():
            search.commit(search.cheapest())
        return search.result()


class _Candidate(NamedTuple):
    """A step: a group, its remaining channels, and the criterion that chose them.

    Args:
        group: Index of the group.
        mask: Booleans of shape `(size,)`: channels that are kept.
        criterion: Index of the criterion.
        saved: Share of the costs that the step saves.
    """

    group: int
    mask: np.ndarray
    criterion: int
    saved: float

    @property
    def step(self) -> tuple[int, int, int]:
        """Key that does not depend on scores: group, width and criterion."""
        return self.group, int(self.mask.sum()), self.criterion


class _Search:
    """The state of one `GreedyLoss.solve`."""

    def __init__(
        self, options: GreedyLoss, request: Request, session: Session
    ) -> None:
        self._options = options
        self._request = request
        self._session = session
        self._criteria = options.criteria or (
            request.require_criterion("GreedyLoss"),
        )
        self._budgets = request.budgets()
        self._alive = {
            name: request.alive[name].astype(bool) for name in request.names
        }
        self._changed: set[str] = set()
        self._kept = request.alive_counts
        self._removed: list[tuple[int, int]] = []
        self._estimates: dict[tuple[int, int, int], float] = {}
        self._loss: float | None = None

    def fits(self, kept: np.ndarray | None = None) -> bool:
        """Return whether the budgets hold."""
        kept = self._kept if kept is None else kept
        return fits(self._request.cost_model.evaluate(kept), self._budgets)

    def cheapest(self) -> tuple[_Candidate, float]:
        """Return the step to take, and its loss."""
        if self._loss is None:
            self._loss = self._session.loss({}, self._options.samples)
        require_finite(self._loss)
        candidates = self._candidates()
        if not self._options.lazy:
            self._estimates = {}
        fresh = [
            number
            for number, candidate in enumerate(candidates)
            if candidate.step not in self._estimates
        ]
        measured = self._measure(candidates, fresh)
        while True:
            order = [self._estimates.get(c.step, -math.inf) for c in candidates]
            best = int(np.argmin(order))
            if best in measured:
                break
            measured.update(self._measure(candidates, [best]))
        if not math.isfinite(measured[best]):
            raise ValueError(
                "The loss is not finite without any of the channels that could go "
                f"next, and {self._loss} with all of them. Look for divisions by "
                "sums over channels in custom layers and losses."
            )
        return candidates[best], measured[best]

    def commit(self, choice: tuple[_Candidate, float]) -> None:
        """Take a step."""
        candidate, self._loss = choice
        name = self._request.names[candidate.group]
        gone = np.flatnonzero(self._alive[name] & ~candidate.mask)
        _log.info(
            "greedy_loss: %d of %d channels of '%s' go, loss %.6g",
            len(gone),
            self._kept[candidate.group],
            name,
            self._loss,
        )
        self._removed += [(candidate.group, int(channel)) for channel in gone]
        self._alive[name] = candidate.mask
        self._kept = self._kept.copy()
        self._kept[candidate.group] -= len(gone)
        self._changed.add(name)

    def result(self) -> Vectors:
        """Return the masks, after putting back what the budgets still allow."""
        if self._removed:
            owners, channels = np.array(self._removed).T
            gone = np.ones(len(owners), dtype=bool)
            evaluate = self._request.cost_model.evaluate
            put_back(gone, owners, self._kept, evaluate, self._budgets, None)
            names = self._request.names
            for group, channel in zip(
                owners[~gone], channels[~gone], strict=True
            ):
                mask = self._alive[names[group]] = self._alive[
                    names[group]
                ].copy()
                mask[channel] = True
        return self._alive

    def _candidates(self) -> list[_Candidate]:
        """Return all possible steps, each set of channels once."""
        progress = self._request.progress(self._kept)
        found: dict[tuple[int, bytes], _Candidate] = {}
        for number, criterion in enumerate(self._criteria):
            scores = self._session.rescore(criterion, self._alive, progress)
            for group, name in enumerate(self._request.names):
                count = self._step(group)
                if not count:
                    continue
                mask = self._alive[name].copy()
                order = by_priority(scores[name], mask)
                mask[order[:count]] = False
                candidate = _Candidate(
                    group, mask, number, self._saved(group, count)
                )
                found.setdefault((group, mask.tobytes()), candidate)
        return list(found.values())

    def _step(self, group: int) -> int:
        """Return how many channels a group's next step removes."""
        size, kept = self._request.sizes[group], self._kept[group]
        if kept <= 1 or 1.0 - kept / size >= self._options.cap - 1e-9:
            return 0
        if self._options.step_of == "width":
            wanted = self._options.step * kept
        else:
            one = self._saved(group, 1)
            wanted = self._options.step / one if one > 0 else 1.0
        count = int(min(max(1, round(wanted)), kept - 1))
        # Find the smallest count that meets the budgets, if it is smaller.
        low = 1
        while low < count:
            middle = (low + count) // 2
            if self.fits(self._without(group, middle)):
                count = middle
            else:
                low = middle + 1
        return count

    def _without(self, group: int, count: int) -> np.ndarray:
        kept = self._kept.copy()
        kept[group] -= count
        return kept

    def _saved(self, group: int, count: int) -> float:
        """Return the saved share of the costs, as a mean over `reduce`."""
        model = self._request.cost_model
        now = model.evaluate(self._kept)
        then = model.evaluate(self._without(group, count))
        full = model.full
        keys = self._request.reduce
        saved = [(now[k] - then[k]) / full[k] for k in keys]
        return float(np.mean(saved))

    def _measure(
        self, candidates: Sequence[_Candidate], numbers: Sequence[int]
    ) -> dict[int, float]:
        """Measure the losses of some candidates, and store their prices.

        Args:
            candidates: All candidates.
            numbers: Indices of those to measure.

        Returns:
            Index -> loss.
        """
        trials = []
        for number in numbers:
            candidate = candidates[number]
            masks = {name: self._alive[name] for name in self._changed}
            masks[self._request.names[candidate.group]] = candidate.mask
            trials.append(masks)
        losses = self._session.losses(trials, self._options.samples)
        measured = {
            number: loss if math.isfinite(loss) else math.inf
            for number, loss in zip(numbers, losses, strict=True)
        }
        for number, loss in measured.items():
            candidate = candidates[number]
            self._estimates[candidate.step] = self._price(loss, candidate.saved)
        return measured

    def _price(self, loss: float, saved: float) -> float:
        """Return the price of a step. The step with the lowest price is taken."""
        increase = loss - float(self._loss or 0.0)
        if not self._options.per_cost or not math.isfinite(increase):
            return increase
        # A larger saving must favour a step even if the loss falls.
        return increase / saved if increase > 0 else increase * saved
