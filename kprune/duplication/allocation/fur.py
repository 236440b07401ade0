"""Allocation by the FLOPs utilisation of each layer."""

from __future__ import annotations

import logging

import numpy as np

from kprune.allocation._solver import by_priority
from kprune.allocation._solver import fits
from kprune.allocation.base import RankedAllocation
from kprune.allocation.base import Request
from kprune.allocation.base import register
from kprune.allocation.base import require_finite
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
"""Decrease of the change per rank, as a share of the step."""


@register("fur")
class FUR(RankedAllocation):
    """Keeps more filters in layers that use their MACs better.

    The FLOPs utilisation ratio of Network Adjustment (Chen et al., CVPR 2020,
    arXiv 2004.02767) is the increase of the loss when channels of one group are
    dropped, with the same dropped MACs in every group. With `c` channels, `F` MACs and
    `s = c dF/dc`, the MACs that a group controls, its drop rate is
    `p = drop * mean(s) / s`. Where layers read the channels, they are multiplied with
    `1 + sqrt(p / (1 - p)) * N(0, 1)`. The groups with the highest ratios are widened
    by a share of their channels, those with the lowest are narrowed; then a common
    factor on all widths meets the target.

    An allocation only removes channels, so no group gets more than it has. The recipe
    `"network-adjustment"` grows layers too.

    It takes groups x repeats + 1 passes over the samples.

    Args:
        drop: Drop rate of a group that controls the mean number of MACs.
        repeats: Number of noise draws per group.
        top: Number of groups that change at each end of the ranking, at most half.
        step: Share of its channels that the first of them gains or loses; for each
            next group it is a tenth of `step` less.
        samples: Number of samples to measure the loss on, drawn at random once; None
            for all of `data`.
        keep_min: Smallest number of channels that each group keeps.
        seed: Seed of the noise.
    """

    needs_loss = True
    # More would violate the ranking in groups whose filters are cheap.
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
        """Group name -> ratio measured in the last call."""

    def rates(self, request: Request) -> np.ndarray:
        """Return drop rates with equal dropped MACs, of shape `(groups,)`.

        Groups that control no MACs have rate 0.
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

        It is the mean increase of the loss, because the dropped MACs are equal for all
        groups.
        """
        if session is None:
            raise ValueError(
                "Allocation FUR measures the loss, so it needs a model. Use it with "
                "kprune.prune(..., data=(x, y)) or a callback."
            )
        rng = np.random.default_rng(self.seed)
        start = require_finite(session.loss(samples=self.samples))
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
        """Return the loss with noise on the channels of a group."""
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
        """Return the share of its channels that each group gains: `(groups,)`."""
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
            order = by_priority(request.scores[name], request.alive[name])
            # A channel is removed when the common factor falls below this.
            left = np.arange(order.size, 0, -1) / order.size
            vector = np.zeros(len(request.alive[name]))
            vector[order] = -left / (1 + shift)
            vectors.append(vector)
        return vectors

    def widths(self, request: Request, session: Session | None) -> np.ndarray:
        """Return new numbers of channels, of shape `(groups,)`.

        Some are larger than now. The costs are as close to the target as whole
        channels allow, but not above it.

        Args:
            request: The request. A share of 0 keeps a cost.
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
    """Return the MACs that each group controls, of shape `(groups,)`: width x slope."""
    widths = request.alive_counts.astype(float)
    each = np.eye(widths.size)
    # Exact, because costs are at most quadratic in a width.
    more = request.cost_model.evaluate(widths + each)["macs"]
    less = request.cost_model.evaluate(widths - each)["macs"]
    slopes: np.ndarray = (more - less) / 2
    return widths * slopes


def _scaled(rows: np.ndarray, noise: np.ndarray) -> np.ndarray:
    return rows * noise.reshape([-1] + [1] * (rows.ndim - 1))
