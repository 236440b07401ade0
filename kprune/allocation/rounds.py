"""Allocation in several rounds, with new scores in each."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING
from typing import Any

import numpy as np

from kprune.allocation._outer import OuterAllocation
from kprune.allocation.base import Request
from kprune.allocation.base import Vectors
from kprune.allocation.base import register
from kprune.allocation.base import registry
from kprune.arguments import whole

if TYPE_CHECKING:
    from kprune.session import Session


@register("rounds")
class Rounds(OuterAllocation):
    """Runs another allocation in several rounds, with new scores in each.

    Unlike with a schedule, there is no training between the rounds. Scores that
    depend on the other channels (similarity, gradients, loss increase) are
    updated after each round.

    Args:
        rounds: Number of equal steps to the target.
        allocation: The allocation to use in each round: a name or an object of
            `kprune.allocation`.

    Example:

    ```python
    masked = kprune.prune(
        model,
        criterion=kprune.criteria.LossIncrease(),
        data=(x_train, y_train),
        allocation=kprune.allocation.Rounds(
            20, kprune.allocation.Global(normalize="none")
        ),
    )
    ```
    """

    def __init__(self, rounds: int = 10, allocation: Any = "global") -> None:
        super().__init__(registry.get(allocation))
        self.rounds = whole(rounds, "Rounds", "rounds")

    def solve(self, request: Request, session: Session | None) -> Vectors:
        if session is None:
            raise ValueError(
                "Allocation Rounds scores channels again in each round, so it needs "
                "a model. Use it with kprune.prune(...) or in a pruning callback."
            )
        end = request.fraction
        start = min(request.progress(), end)
        stages = np.linspace(start, end, self.rounds + 1)[1:]
        kept, scores = request.alive, request.scores
        for fraction in stages:
            now = dataclasses.replace(request, alive=kept, fraction=fraction)
            if self.used.met(now):
                continue
            if kept is not request.alive:
                criterion = request.require_criterion("Rounds")
                scores = session.rescore(criterion, kept, now.progress())
            kept = self.used.solve(
                dataclasses.replace(now, scores=scores), session
            )
        return kept
