"""Allocation by the strength of interactions between channels."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from kprune.allocation.base import RankedAllocation
from kprune.allocation.base import Request
from kprune.allocation.base import register
from kprune.allocation.uniform import Uniform
from kprune.arguments import count_or_all
from kprune.arguments import whole
from kprune.criteria._coalitions import Coalitions

if TYPE_CHECKING:
    from kprune.graph import Group
    from kprune.session import Session

SHARES = (0.3, 0.5, 0.7, 0.9)
"""Shares of a group's channels that are present when a pair is measured."""

_log = logging.getLogger("kprune")


@register("utilisation")
class Utilisation(RankedAllocation):
    """Removes more channels from groups whose channels interact weakly.

    The interaction of two channels is `v(S + i + j) - v(S + i) - v(S + j) +
    v(S)`, where `v` is minus the loss and `S` is a set of 30 to 90 % of the other
    channels of the group. The strength of a group is the mean absolute
    interaction over pairs, divided by the mean absolute score. Groups are ranked
    by strength: of `n` groups, the strongest loses `1 / n` of the share that the
    weakest loses, and the others are evenly spaced in between, as far as
    `max_share` allows.

    Scores must be in units of the loss, as those of the criteria `"shapley"` and
    `"loss_increase"` are. They alone decide which channels of a group are
    removed. This is the filter utilisation strength of "SNPFI" (Tang, Wei and Li,
    arXiv 2307.00758). It takes about half a pass over the samples for each of
    `16 * pairs` sets per group.

    Args:
        pairs: Number of pairs to draw per group.
        samples: Number of samples to draw; `None` for all of `data`.
        keep_min: See `Global`.
        max_share: See `Global`.
        round_to: See `Global`.
        seed: Seed of the draws.

    Example:

    ```python
    masked = kprune.prune(
        model,
        criterion="shapley",
        allocation="utilisation",
        data=(x_train, y_train),
    )
    ```
    """

    needs_loss = True
    # More would change the shares in groups whose filters are cheap.
    restore = 1

    def __init__(
        self,
        pairs: int = 8,
        samples: int | None = 256,
        keep_min: int = 1,
        max_share: float = 0.9,
        round_to: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(keep_min, max_share, round_to)
        self.pairs = whole(pairs, "Utilisation", "pairs", of="pairs")
        self.samples = count_or_all(
            samples, "Utilisation", "samples", "samples"
        )
        self.seed = seed

    def strengths(
        self, request: Request, session: Session | None
    ) -> np.ndarray:
        """Return the interaction strength of each group, of shape `(groups,)`.

        It is infinite for groups with fewer than two alive channels.

        Args:
            request: The request.
            session: The model and its samples.
        """
        if session is None:
            raise ValueError(
                "Allocation Utilisation measures the loss, so it needs a model. Use "
                "it with kprune.prune(..., data=(x, y)) or in a pruning callback."
            )
        game = Coalitions(session, self.samples, self.seed)
        rng = np.random.default_rng(self.seed)
        found = []
        for group in request.graph.prunable:
            alive = np.flatnonzero(request.alive[group.name])
            if len(alive) < 2:
                found.append(np.inf)
                continue
            together = np.abs(self._interactions(game, group, alive, rng))
            alone = np.abs(request.scores[group.name][alive])
            found.append(together.mean() / (alone.mean() + 1e-12))
            _log.info("utilisation of '%s': %.4g", group.name, found[-1])
        return np.array(found)

    def priorities(
        self, request: Request, session: Session | None
    ) -> list[np.ndarray]:
        strengths = self.strengths(request, session)
        stronger = (strengths[:, None] > strengths).sum(axis=1)
        pace = 1.0 - stronger / len(strengths)
        shares = Uniform().priorities(request, session)
        return [vector / p for vector, p in zip(shares, pace, strict=True)]

    def _interactions(
        self,
        game: Coalitions,
        group: Group,
        alive: np.ndarray,
        rng: np.random.Generator,
    ) -> np.ndarray:
        count = len(alive)
        every = np.array(np.triu_indices(count, 1)).T
        number = min(self.pairs, len(every))
        chosen = every[rng.choice(len(every), number, replace=False)]
        sizes = [min(round(share * count), count - 2) for share in SHARES]
        contexts = np.zeros((number, len(sizes), group.size), dtype=bool)
        for pair, sets in zip(chosen, contexts, strict=True):
            others = np.delete(alive, pair)
            for size, one in zip(sizes, sets, strict=True):
                one[rng.choice(others, size, replace=False)] = True
        return game.interactions(group, alive[chosen], contexts)
