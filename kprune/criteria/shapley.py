"""Shapley values of channels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kprune.arguments import count_or_all
from kprune.arguments import whole
from kprune.criteria._coalitions import Coalitions
from kprune.criteria.base import LossCriterion
from kprune.criteria.base import Scores
from kprune.criteria.base import register
from kprune.criteria.base import required
from kprune.masking import masks as read_masks

if TYPE_CHECKING:
    from kprune.graph import Group
    from kprune.session import Session


@register("shapley")
class Shapley(LossCriterion):
    """Shapley value of a channel: the mean decrease of the loss when it joins others.

    The score is `E[v(S + i) - v(S)]`, where `v(S)` is minus the compiled loss with
    only the channels `S` of the group, and `S` are those before `i` in a random
    order. The scores of a group sum to the value of the whole group, `v(all) -
    v(none)`. Two identical channels share their value equally, while
    `loss_increase` scores both as unimportant. Orders are drawn in pairs of an order
    and its reverse ("antithetic"), and all sets are measured on the same samples.
    This is the filter importance of "SNPFI" (Tang, Wei and Li, arXiv 2307.00758),
    estimated by sampling (Castro et al., doi 10.1016/j.cor.2008.04.004).

    It takes about half a pass over the samples per order and step.

    Args:
        samples: Number of samples to draw; `None` for all of `data`.
        permutations: Number of orders per group. If a group has no more orders
            than that, all are used, and the values are exact apart from `steps`.
        steps: Largest number of steps in which channels join. Channels of the same
            step share its gain equally. With `None`, they join one by one.
        seed: Seed of the draws.

    Example:

    ```python
    masked = kprune.prune(model, "shapley", data=(x_train, y_train))
    ```
    """

    decides_by = ("loss",)

    def __init__(
        self,
        samples: int | None = 256,
        permutations: int = 8,
        steps: int | None = 16,
        seed: int = 0,
    ) -> None:
        self.samples = count_or_all(samples, "Shapley", "samples", "samples")
        self.permutations = whole(
            permutations, "Shapley", "permutations", of="orders"
        )
        self.steps = count_or_all(steps, "Shapley", "steps", "steps")
        self.seed = seed

    def scores(
        self, groups: Sequence[Group], session: Session | None
    ) -> Scores:
        session = required(session, self)
        masks = read_masks(session.masked, session.graph)
        game = Coalitions(session, self.samples, self.seed)
        rng = np.random.default_rng(self.seed)
        return {
            group.name: self._values(
                game, group, np.flatnonzero(masks[group.name] > 0), rng
            )
            for group in groups
        }

    def _values(
        self,
        game: Coalitions,
        group: Group,
        alive: np.ndarray,
        rng: np.random.Generator,
    ) -> np.ndarray:
        count = len(alive)
        parts = min(self.steps or count, count)
        walks = [
            np.array_split(alive[order], parts)
            for order in self._orders(count, rng)
        ]
        sets = np.zeros((len(walks), parts + 1, group.size), dtype=bool)
        for walk, present in zip(walks, sets, strict=True):
            for step, joining in enumerate(walk, 1):
                present[step:, joining] = True
        values = game.values(group, sets.reshape(-1, group.size))
        gains = np.diff(values.reshape(sets.shape[:2]), axis=1)
        scores = np.zeros(group.size)
        for walk, gain in zip(walks, gains, strict=True):
            for joining, brought in zip(walk, gain, strict=True):
                scores[joining] += brought / (len(joining) * len(walks))
        return scores

    def _orders(
        self, count: int, rng: np.random.Generator
    ) -> Iterator[np.ndarray]:
        if math.factorial(min(count, 20)) <= self.permutations:
            yield from map(np.array, itertools.permutations(range(count)))
            return
        for _ in range(self.permutations // 2):
            order = rng.permutation(count)
            yield order
            yield order[::-1]
        if self.permutations % 2:
            yield rng.permutation(count)
