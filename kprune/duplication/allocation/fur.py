"""Widths by how well each layer uses its multiplications."""

from __future__ import annotations

import logging

import numpy as np

from kprune.allocation._solver import fits
from kprune.allocation.base import RankedAllocation
from kprune.allocation.base import Request
from kprune.allocation.base import register
from kprune.arguments import count_or_all
from kprune.arguments import share
from kprune.arguments import whole
from kprune.graph.channel_graph import Group
from kprune.graph.channel_graph import Member
from kprune.graph.values import read
from kprune.rebuild.copies import edited
from kprune.session import Session

logger = logging.getLogger("kprune")

MOST = 0.9
"""Largest drop rate of a group."""

DECAY = 0.1
"""How much less the next group in the ranking changes, as a share of the step."""


@register("fur")
class FUR(RankedAllocation):
    """Layers that make more of their MACs keep more filters.

    The FLOPs utilisation ratio of Network Adjustment (Chen et al., CVPR 2020,
    arXiv 2004.02767): how much the loss rises when channels of one group are
    dropped, as many in each as carry the same MACs. With `c` channels, `F` the
    MACs and `s = c dF/dc` those that a group controls, its drop rate is
    `p = drop * mean(s) / s`. The channels are multiplied by
    `1 + sqrt(p / (1 - p)) * N(0, 1)` where layers read them. The groups of the
    highest ratios are to be wider by a share of their channels, those of the
    lowest narrower; then one factor on all widths meets the target.

    An allocation takes channels away, so here no group exceeds the channels
    that it has. The recipe `"network-adjustment"` grows layers too.

    It takes groups x repeats + 1 passes over the samples.

    Args:
        drop: Drop rate of a group that controls as many MACs as the mean.
        repeats: How often noise is drawn for each group.
        top: Groups at either end of the ranking that change, at most half.
        step: Share of its channels that the first of them gains or loses; each
            next one a tenth of it less.
        samples: Samples on which the loss is measured, drawn at random once;
            None for all of `data`.
        keep_min: Channels that each group keeps at least.
        seed: Seed of the noise.
    """

    needs_loss = True
    # More would undo the ranking in groups whose filters cost little.
    restore = 1

    def __init__(
        self,
        drop: float = 0.1,
        repeats: int = 10,
        top: int = 3,
        step: float = 0.2,
        samples: int | None = 1000,
        keep_min: int = 2,
        seed: int = 0,
    ) -> None:
        super().__init__(keep_min, max_share=1.0)
        self.drop = share(drop, "FUR", "drop")
        self.repeats = whole(repeats, "FUR", "repeats")
        self.top = whole(top, "FUR", "top")
        self.step = share(step, "FUR", "step")
        self.samples = count_or_all(samples, "FUR", "samples", "samples")
        self.seed = seed
        self.ratios: dict[str, float] | None = None
        """What the last call measured, by group name."""

    def rates(self, request: Request) -> np.ndarray:
        """Return `(groups,)` drop rates that drop equal MACs in every group.

        Groups that control no MACs have the rate 0.
        """
        controlled = _controlled(request)
        positive = controlled > 0
        if not positive.any():
            return np.zeros(controlled.size)
        dropped = min(
            self.drop * controlled[positive].mean(),
            MOST * controlled[positive].min(),
        )
        rates = np.zeros(controlled.size)
        rates[positive] = dropped / controlled[positive]
        return rates

    def measure(
        self, request: Request, session: Session | None
    ) -> dict[str, float]:
        """Return the utilisation ratio of each prunable group by name.

        That is the mean rise of the loss; the MACs that it is a ratio to are
        the same for all groups.
        """
        if session is None:
            raise ValueError(
                "Allocation FUR measures the loss, which takes a model. Use it in "
                "kprune.prune(..., data=(x, y)) or a callback."
            )
        rng = np.random.default_rng(self.seed)
        start = session.loss(samples=self.samples)
        ratios = {}
        for group, rate in zip(
            request.graph.prunable, self.rates(request), strict=True
        ):
            spread = np.sqrt(rate / (1 - rate))
            rises = [0.0]
            if spread and group.consumers:
                rises = [
                    self._loss(group, spread, session, rng) - start
                    for _ in range(self.repeats)
                ]
            ratios[group.name] = float(np.mean(rises))
        self.ratios = ratios
        logger.info("FLOPs utilisation ratios: %s", ratios)
        return ratios

    def _loss(
        self,
        group: Group,
        spread: float,
        session: Session,
        rng: np.random.Generator,
    ) -> float:
        """Return the loss while the channels of a group are noisy."""
        noise = 1 + spread * rng.normal(size=group.size)
        readers: dict[int, list[Member]] = {}
        for member in group.consumers:
            readers.setdefault(id(member.variable), []).append(member)
        values = []
        for members in readers.values():
            variable = members[0].variable
            value = edited(
                read(variable),
                [(group.name, member) for member in members],
                lambda name, member, rows: _scaled(rows, noise),
            )
            values.append((variable, value))
        with session.trial(weights=values):
            return session.loss(samples=self.samples)

    def shifts(self, request: Request, session: Session | None) -> np.ndarray:
        """Return `(groups,)` shares of its channels that each is to gain."""
        ratios = self.measure(request, session)
        order = np.argsort([-ratios[name] for name in request.names])
        shifts = np.zeros(order.size)
        for rank in range(min(self.top, order.size // 2)):
            change = self.step * max(1 - DECAY * rank, 0.0)
            shifts[order[rank]] = change
            shifts[order[-1 - rank]] = -change
        return shifts

    def priorities(
        self, request: Request, session: Session | None
    ) -> list[np.ndarray]:
        vectors = []
        shifts = self.shifts(request, session)
        for name, shift in zip(request.names, shifts, strict=True):
            living = np.flatnonzero(request.alive[name])
            scores = request.scores[name][living]
            order = living[np.argsort(scores, kind="stable")]
            # A channel goes when the common factor falls below this.
            left = np.arange(living.size, 0, -1) / living.size
            vector = np.zeros(len(request.alive[name]))
            vector[order] = -left / (1 + shift)
            vectors.append(vector)
        return vectors

    def widths(self, request: Request, session: Session | None) -> np.ndarray:
        """Return `(groups,)` channels that each group is to have.

        Some have more than now. The costs are as close to the target as whole
        channels allow, and not above it.

        Args:
            request: What is asked. A share of 0 of a cost keeps that cost.
            session: The model and its samples.
        """
        self.check(request)
        wanted = request.alive_counts * (1 + self.shifts(request, session))
        min_channels = self.min_channels(request)
        budgets = request.budgets()

        def fit(widths: np.ndarray) -> bool:
            return fits(request.cost_model.evaluate(widths), budgets)

        def at(factor: float) -> np.ndarray:
            whole = np.floor(factor * wanted + 1e-9).astype(int)
            return np.maximum(whole, min_channels)

        low, high = 0.0, 2.0
        while fit(at(high)):
            high *= 2
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if fit(at(middle)) else (low, middle)
        widths = at(low)
        for place in np.argsort(widths - low * wanted, kind="stable"):
            wider = widths.copy()
            wider[place] += 1
            if fit(wider):
                widths = wider
        return widths


def _controlled(request: Request) -> np.ndarray:
    """Return `(groups,)` MACs that each group controls: width times slope."""
    living = request.alive_counts.astype(float)
    each = np.eye(living.size)
    # Costs are at most quadratic in a width, so that this is the derivative.
    more = request.cost_model.evaluate(living + each)["macs"]
    less = request.cost_model.evaluate(living - each)["macs"]
    slopes: np.ndarray = (more - less) / 2
    return living * slopes


def _scaled(rows: np.ndarray, noise: np.ndarray) -> np.ndarray:
    return rows * noise.reshape([-1] + [1] * (rows.ndim - 1))
