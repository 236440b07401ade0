"""Groups whose channels work little together lose more."""

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
"""Shares of a group's channels that are there when a pair is looked at."""

_log = logging.getLogger("kprune")


@register("utilisation")
class Utilisation(RankedAllocation):
    """The weaker the channels of a group interact, the more of them go.

    A pair of channels interacts by what both bring beyond what each brings
    alone, `v(S + i + j) - v(S + i) - v(S + j) + v(S)`, with `v` minus the loss
    and `S` other channels of the group, between 30 and 90 % of them. The
    strength of a group is the mean size of that over pairs, divided by the mean
    size of its scores. Groups are ranked by it: of `n` groups the strongest
    loses `1 / n` of the share that the weakest loses, and the others lie evenly
    between, as far as `max_share` allows.

    Scores are to be in units of the loss, as those of the criteria `"shapley"`
    and `"loss_increase"` are. Which channels of a group go, they alone decide.
    The filter utilisation strength of "SNPFI" (Tang, Wei and Li, arXiv
    2307.00758). It takes about half a pass over the samples for each of
    `16 * pairs` sets per group.

    Args:
        pairs: How many pairs of each group are drawn.
        samples: How many samples are drawn; `None` for all of `data`.
        keep_min: See `Global`.
        max_share: See `Global`.
        round_to: See `Global`.
        seed: Of the draws.

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
    # More would undo the shares in groups whose filters cost little.
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
        """Return how strongly the channels of each group interact, `(groups,)`.

        Infinite where there are fewer than two.

        Args:
            request: What is asked.
            session: The model and its samples.
        """
        if session is None:
            raise ValueError(
                "Allocation Utilisation measures the loss, which takes a model. "
                "Use it in kprune.prune(..., data=(x, y)) or in a pruning callback."
            )
        game = Coalitions(session, self.samples, self.seed)
        rng = np.random.default_rng(self.seed)
        found = []
        for group in request.graph.prunable:
            living = np.flatnonzero(request.alive[group.name])
            if len(living) < 2:
                found.append(np.inf)
                continue
            together = np.abs(self._interactions(game, group, living, rng))
            alone = np.abs(request.scores[group.name][living])
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
        living: np.ndarray,
        rng: np.random.Generator,
    ) -> np.ndarray:
        count = len(living)
        every = np.array(np.triu_indices(count, 1)).T
        number = min(self.pairs, len(every))
        chosen = every[rng.choice(len(every), number, replace=False)]
        sizes = [min(round(share * count), count - 2) for share in SHARES]
        contexts = np.zeros((number, len(sizes), group.size), dtype=bool)
        for pair, sets in zip(chosen, contexts, strict=True):
            others = np.delete(living, pair)
            for size, one in zip(sizes, sets, strict=True):
                one[rng.choice(others, size, replace=False)] = True
        return game.interactions(group, living[chosen], contexts)
