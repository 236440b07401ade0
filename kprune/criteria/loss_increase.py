"""Measured increase of the loss when a channel is removed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import numpy as np

from kprune import arguments
from kprune.arguments import count_or_all
from kprune.criteria.base import LossCriterion
from kprune.criteria.base import Scores
from kprune.criteria.base import get
from kprune.criteria.base import register
from kprune.criteria.base import required
from kprune.criteria.base import score_groups
from kprune.masking import masks as read_masks

if TYPE_CHECKING:
    from kprune.graph import Group
    from kprune.session import Session


@register("loss_increase")
class LossIncrease(LossCriterion):
    """Loss without a channel minus the loss with it.

    The loss is measured in inference mode, without penalties, on random training
    samples. New samples are drawn every time channels are scored. Channels whose
    removal reduces the loss have negative scores. Scores are comparable across
    groups: use `kprune.allocation.Global(normalize="none")`. They are valid for the
    removal of a single channel; use `kprune.allocation.Rounds` to remove a few at a
    time and measure again. From "Filter Pruning using Hierarchical Group Sparse
    Regularization" (Mitsuno and Kurita, arXiv 2011.02389).

    It takes about half a pass over the samples per channel, because a pass begins
    at the first layer that changes. To save passes, preselect channels with another
    criterion (`only`).

    Args:
        samples: Number of samples to draw; `None` for all of `data`.
        seed: Seed of the draws.
        only: Criterion that ranks the channels of each group first, for example
            `"l2"` or `"taylor"`; `None` measures all channels.
        share: Share of each group's channels, lowest rank first, that is measured
            if `only` is given. The others get higher scores, in order of rank.
        per_mac: Whether to divide each increase by the channel's share of the
            MACs.

    Raises:
        ValueError: If a number is out of range.

    Example:

    ```python
    masked = kprune.prune(
        model,
        criterion=kprune.criteria.LossIncrease(samples=500, only="l2"),
        allocation=kprune.allocation.Global(normalize="none"),
        data=(x_train, y_train),
    )
    ```
    """

    decides_by = ("loss",)

    def __init__(
        self,
        samples: int | None = 1000,
        seed: int = 0,
        only: Any = None,
        share: float = 0.5,
        per_mac: bool = False,
    ) -> None:
        owner = "LossIncrease"
        self.samples = count_or_all(samples, owner, "samples", "samples")
        self.seed = seed
        self.only = None if only is None else get(only)
        self.share = arguments.share(share, owner, "share", one=True)
        self.per_mac = per_mac
        self._round = 0

    def check(self, session: Session | None) -> None:
        super().check(session)
        if self.only is not None:
            self.only.check(session)

    def scores(
        self, groups: Sequence[Group], session: Session | None
    ) -> Scores:
        session = required(session, self)
        masks = read_masks(session.masked, session.graph)
        ranks = self._ranks(groups, session, masks)
        # New samples in each round, but the same for all channels of a round.
        seed = (self.seed, self._round)
        self._round += 1
        chosen = [
            (group.name, channel)
            for group in groups
            for channel in self._chosen(ranks[group.name], masks[group.name])
        ]
        trials: list[Scores] = [{}]
        for name, channel in chosen:
            trial = masks[name].copy()
            trial[channel] = 0.0
            trials.append({name: trial})
        whole, *losses = session.losses(trials, self.samples, seed)
        costs = _channel_costs(session, masks) if self.per_mac else {}
        increases = {g.name: np.full(g.size, np.nan) for g in groups}
        for (name, channel), loss in zip(chosen, losses, strict=True):
            price = _price(loss - whole, costs.get(name))
            increases[name][channel] = price
        return _ranked_above(increases, ranks)

    def _ranks(
        self, groups: Sequence[Group], session: Session, masks: Scores
    ) -> Scores:
        """Return the scores of the criterion `only`; zeros without one."""
        if self.only is None:
            return {group.name: np.zeros(group.size) for group in groups}
        alive = {group.name: masks[group.name] > 0 for group in groups}
        return score_groups(self.only, groups, session, alive)

    def _chosen(self, ranks: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Return the channels of one group to measure."""
        alive = np.flatnonzero(mask > 0)
        if len(alive) < 2:
            return alive[:0]  # The last channel cannot be removed.
        if self.only is None:
            return alive
        order = np.argsort(ranks[alive], kind="stable")
        return alive[order[: int(np.ceil(self.share * len(alive)))]]


def _channel_costs(session: Session, masks: Scores) -> dict[str, float]:
    """Return the share of the MACs that one channel of each group takes now."""
    model = session.cost_model
    names = [group.name for group in session.groups]
    kept = np.array([int((masks[name] > 0).sum()) for name in names])
    now = model.evaluate(kept)["macs"]
    without = model.evaluate(kept - np.eye(len(names), dtype=int))["macs"]
    saved = (now - without) / model.full["macs"]
    return dict(zip(names, saved.tolist(), strict=True))


def _price(rise: float, saved: float | None) -> float:
    """Return the rise per cost; a larger saving always lowers the score."""
    if not saved:
        return rise
    return rise / saved if rise > 0 else rise * saved


def _ranked_above(increases: Scores, ranks: Scores) -> Scores:
    """Give unmeasured channels scores above all others, in the order of `ranks`."""
    measured = np.concatenate(list(increases.values()))
    measured = measured[~np.isnan(measured)]
    top = measured.max(initial=0.0)
    span = max(np.ptp(measured) if measured.size else 0.0, abs(top), 1e-6)
    filled = {}
    for name, vector in increases.items():
        rest = np.flatnonzero(np.isnan(vector))
        order = rest[np.argsort(ranks[name][rest], kind="stable")]
        steps = np.arange(1, len(order) + 1) / max(len(order), 1)
        filled[name] = vector.copy()
        filled[name][order] = top + span * steps
    return filled
