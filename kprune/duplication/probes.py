"""Measurement of the loss with replaced channels."""

from __future__ import annotations

import numpy as np

from kprune.allocation._solver import by_priority
from kprune.allocation.base import Request
from kprune.duplication.consumers import Split
from kprune.duplication.copies import Copies
from kprune.duplication.copies import CopyPlan
from kprune.duplication.copies import new_values
from kprune.duplication.copies import only_exact
from kprune.duplication.copies import plan_copies
from kprune.session import Session


class ReplacementProbe:
    """Measures the loss with the lowest-scored channels of one group replaced.

    With the consumer rule `"split"`, it equals the loss without these channels, so
    masks are enough. For other rules, copies are made temporarily. If copies are not
    exact, the channels are masked.

    Args:
        request: The request of an allocation.
        session: The masked model and its samples.
        copies: How to copy.
        samples: Number of samples to measure on; None for all.
    """

    def __init__(
        self,
        request: Request,
        session: Session | None,
        copies: Copies,
        samples: int | None,
    ) -> None:
        if session is None:
            raise ValueError(
                "The allocation measures the loss, so it needs a model. Use it with "
                "kprune.prune(..., data=(x, y)), kprune.duplicate or a callback."
            )
        self._request = request
        self._copies = copies
        self._samples = samples
        self._session = session
        self._known: dict[str, bool] = {}
        self.masks_do = type(copies.consumers) is Split

    def __call__(self, name: str, count: int) -> float:
        """Return the loss with a group's `count` lowest-scored channels replaced."""
        mask = self.alive(name).astype("float32")
        mask[self.order(name)[:count]] = 0
        masks = {name: mask} if count else {}
        if self.masks_do or not count or not self._exact(name):
            return self._session.loss(masks, self._samples)
        return self._with_copies(name, mask)

    def alive(self, name: str) -> np.ndarray:
        return self._request.alive[name].astype(bool)

    def order(self, name: str) -> np.ndarray:
        """Return the alive channels of a group in order of score, lowest first."""
        return by_priority(self._request.scores[name], self.alive(name))

    def _plan(self, name: str, mask: np.ndarray) -> CopyPlan:
        alive = {name: self.alive(name)}
        return plan_copies(
            self._request.graph,
            {name: mask},
            self._request.scores,
            alive,
            self._copies,
        )

    def _exact(self, name: str) -> bool:
        """Return whether channels of a group can be copied exactly; cached."""
        if name not in self._known:
            graph = self._request.graph
            mask = self.alive(name).astype("float32")
            order = self.order(name)
            mask[order[: (order.size + 1) // 2]] = 0
            plan = self._plan(name, mask)
            only_exact(graph.model, graph, {name: mask}, plan)
            self._known[name] = name in plan.maps
        return self._known[name]

    def _with_copies(self, name: str, mask: np.ndarray) -> float:
        graph = self._request.graph
        plan = self._plan(name, mask)
        source = self._session.source
        values = new_values(graph.model, graph, plan.maps, self._copies, source)
        with self._session.trial(weights=values):
            return self._session.loss(plan.masks, self._samples)
