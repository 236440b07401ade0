"""Search for the widths that meet all budgets with the smallest loss.

Every group has a ladder: its loss at each width. The search considers all widths of
a group, not only the next smaller one, because some costs are stairs: latency falls
in steps as channels are removed, and can even rise. There are three phases.

1. Remove channels. The candidate widths of a group are those that save more than
   every wider one. The width that saves most per loss is taken repeatedly, until
   all budgets hold.
2. Put channels back wherever the budgets allow it.
3. Exchange channels between groups while that reduces the loss. This is skipped
   for stairs, where budgets leave little room and many widths would have to be
   tried.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kprune.cost.evaluator import Evaluator

TINY = 1e-12
"""Losses, costs and relative differences up to this count as 0."""

CLOSE = 1e-9
"""Relative difference between numbers that count as equal."""


@dataclasses.dataclass(eq=False)
class Search:
    """Chooses how many channels each group keeps.

    Args:
        costs: Evaluates costs for kept counts.
        budgets: Cost name -> highest allowed cost.
        lost: For each group, losses of shape `(alive channels + 1,)`, by width.
            They must not rise with the width.
        min_channels: Smallest kept counts, of shape `(groups,)`.
        alive: Current counts, of shape `(groups,)`.
    """

    costs: Evaluator
    budgets: Mapping[str, float]
    lost: Sequence[np.ndarray]
    min_channels: np.ndarray
    alive: np.ndarray

    def __post_init__(self) -> None:
        self.budgets = dict(self.budgets)
        self.min_channels = np.minimum(self.min_channels, self.alive)
        self.alive = np.array(self.alive)
        names = list(self.budgets)
        self.highest = np.array(list(self.budgets.values()))
        self.maxima = np.array([n in self.costs.maxima for n in names], bool)
        self.stairs = np.array([n in self.costs.stairs for n in names], bool)

    def run(self) -> np.ndarray:
        """Return kept counts of shape `(groups,)` that meet all budgets.

        Raises:
            ValueError: If the budgets cannot be met.
        """
        state = _give_back(_reduce(_State(self, self.alive)))
        if not self.stairs.any():
            state = _exchange(state)
        return state.kept


class _Move(NamedTuple):
    """A change of one group's width.

    Args:
        group: Index of the group.
        width: Its new kept count.
        lost: Change of the loss; negative for a wider group.
        worth: Saved cost per loss, or recovered loss per cost.
    """

    group: int
    width: int
    lost: float
    worth: float


class _Widths:
    """All smaller, or all larger, widths of a group, nearest first.

    Args:
        group: Index of the group.
        widths: Kept counts, of shape `(n,)`.
        lost: Changes of the loss, of shape `(n,)`; negative for larger widths.
        saved: Savings, of shape `(costs, n)`. See `Evaluator.savings`.
    """

    def __init__(
        self,
        group: int,
        widths: np.ndarray,
        lost: np.ndarray,
        saved: np.ndarray,
    ) -> None:
        self.group = group
        self.widths = widths
        self.lost = lost
        self.saved = saved
        self._bargain: tuple[bytes, float, _Move | None] | None = None

    def bargain(self, excess: np.ndarray, cap: float) -> _Move | None:
        """Return the move to the width that saves most per loss, or None.

        Args:
            excess: Costs in excess of their budgets, of shape `(costs,)`. If
                several exceed them, savings are measured as shares of the excess,
                up to 1. That makes them comparable, until the next move.
            cap: Largest saving that counts, if one cost exceeds its budget.
        """
        over = excess > 0
        if over.sum() == 1:
            key, saved = over.tobytes(), self.saved[over][0]
        else:
            shares = self.saved[over] / excess[over][:, None]
            key, saved = excess.tobytes(), np.minimum(shares, 1.0).sum(axis=0)
        most = float(saved.max(initial=0.0))
        # Reuse the last result if nothing that it depends on has changed.
        if self._bargain and self._bargain[0] == key and most <= cap:
            return self._bargain[2]
        found = self._best(saved, cap)
        if most <= cap:
            self._bargain = key, cap, found
        return found

    def _best(self, saved: np.ndarray, cap: float) -> _Move | None:
        before = np.maximum.accumulate(np.append(0.0, saved))[:-1]
        edges = np.flatnonzero(saved > before * (1 + CLOSE) + TINY)
        if not len(edges):
            return None
        lost = np.maximum(self.lost[edges], 0.0)
        worth = np.minimum(saved[edges], cap) / (lost + TINY)
        at = _furthest(worth)
        return self._move(int(edges[at]), float(worth[at]))

    def enough(self, excess: np.ndarray) -> _Move | None:
        """Return the move with the least loss that meets all budgets, or None."""
        over = excess > 0
        wanted = (1 - TINY) * excess[over][:, None]
        suffices = (self.saved[over] >= wanted).all(axis=0)
        if not suffices.any():
            return None
        return self._move(int(np.argmax(suffices)), 0.0)

    def offer(
        self, room: np.ndarray, priced: np.ndarray, refused: Collection[int]
    ) -> _Move | None:
        """Return the move to a larger width that recovers most loss per cost, or None.

        Args:
            room: How much each cost may rise, of shape `(costs,)`.
            priced: Weights of the costs in the price, of shape `(costs,)`.
            refused: Widths to leave out.
        """
        fits = (-self.saved <= room[:, None]).all(axis=0)
        if refused:
            fits &= ~np.isin(self.widths, list(refused))
        if not fits.any():
            return None
        price = np.maximum(-(priced @ self.saved[:, fits]), TINY)
        worth = -self.lost[fits] / price
        at = _furthest(worth)
        return self._move(int(np.flatnonzero(fits)[at]), float(worth[at]))

    def _move(self, at: int, worth: float) -> _Move:
        width, lost = int(self.widths[at]), float(self.lost[at])
        return _Move(self.group, width, lost, worth)


def _furthest(worth: np.ndarray) -> int:
    """Return the index of the largest worth, or the last of equals to save moves."""
    most = float(worth.max())
    return int(np.flatnonzero(worth >= most - CLOSE * abs(most))[-1])


class _State:
    """Kept counts, with cached losses and savings of other widths.

    Args:
        search: The search.
        kept: Kept counts, of shape `(groups,)`.
        known: Cached widths: `(group, False)` -> its smaller widths, and
            `(group, True)` -> its larger ones.
    """

    def __init__(
        self,
        search: Search,
        kept: np.ndarray,
        known: dict[tuple[int, bool], _Widths] | None = None,
    ) -> None:
        self.search = search
        self.kept = kept
        self._known = {} if known is None else known

    def change(self, move: _Move) -> _State:
        """Return the state after a move."""
        search = self.search
        stale = {move.group, *search.costs.near(move.group, search.budgets)}
        kept = self.kept.copy()
        kept[move.group] = move.width
        known = {k: w for k, w in self._known.items() if k[0] not in stale}
        return _State(search, kept, known)

    @functools.cached_property
    def excess(self) -> np.ndarray:
        """Costs in excess of their budgets, of shape `(costs,)`; 0 if none."""
        search = self.search
        by_name = search.costs.excess(self.kept, search.budgets)
        return np.array([float(by_name[name]) for name in search.budgets])

    @property
    def fits(self) -> bool:
        """Whether all budgets hold."""
        return not (self.excess > 0).any()

    @property
    def loss(self) -> float:
        """The sum of the groups' losses."""
        pairs = zip(self.search.lost, self.kept, strict=True)
        return float(sum(lost[width] for lost, width in pairs))

    @property
    def room(self) -> np.ndarray:
        """How much each cost may rise, of shape `(costs,)`, with a rounding margin."""
        search = self.search
        # Of several rows, for a single one may take long.
        costs = search.costs.evaluate(self.kept[None])
        now = np.array([float(costs[name][0]) for name in search.budgets])
        # Savings of a maximum are those of its excess, which must not rise.
        room = np.where(search.maxima, 0.0, search.highest - now)
        return room + CLOSE * np.abs(search.highest)

    def narrower(self, group: int) -> _Widths:
        """Return losses and savings at all smaller widths of a group."""
        floor = self.search.min_channels[group]
        return self._widths(group, floor - 1, -1)

    def wider(self, group: int) -> _Widths:
        """Return losses and savings (both negative) at all larger widths of a group."""
        return self._widths(group, self.search.alive[group] + 1, 1)

    def _widths(self, group: int, end: int, step: int) -> _Widths:
        found = self._known.get((group, step > 0))
        if found is None:
            search, kept = self.search, self.kept
            widths = np.arange(kept[group] + step, end, step)
            saved = search.costs.savings(kept, group, widths, search.budgets)
            lost = search.lost[group]
            found = self._known[group, step > 0] = _Widths(
                group,
                widths,
                lost[widths] - lost[kept[group]],
                np.array([saved[name] for name in search.budgets]),
            )
        return found


def _reduce(state: _State) -> _State:
    """Return a state that meets all budgets, found move by move.

    Raises:
        ValueError: If there is none.
    """
    groups = range(len(state.kept))
    while not state.fits:
        excess = state.excess
        # A channel that saves far more than needed must not seem cheap.
        one = (excess > 0).sum() == 1 and not state.search.stairs.any()
        cap = float(excess.max()) if one else np.inf
        found = [state.narrower(group).bargain(excess, cap) for group in groups]
        moves = [move for move in found if move is not None]
        if not moves:
            return _narrowest(state)
        move = max(moves, key=lambda move: move.worth)
        after = state.change(move)
        state = _last(state, after) if after.fits else after
    return state


def _last(state: _State, after: _State) -> _State:
    """Return the best state that meets all budgets after one more move.

    The bargain may save more than needed, so that another move is better.

    Args:
        state: A state that does not meet the budgets.
        after: The state after the best bargain, which does.
    """
    moves = _enough(state, range(len(state.kept)))
    if state.search.stairs.any():
        ends = [state.change(m) for m in sorted(moves, key=_lost)[:1]]
    else:
        ends = [_give_back(state.change(move)) for move in moves]
    return min(
        [end for end in [*ends, after] if end.fits], key=lambda end: end.loss
    )


def _enough(state: _State, groups: Iterable[int]) -> list[_Move]:
    """Return moves that meet all budgets, one per group that can do it alone."""
    found = [state.narrower(group).enough(state.excess) for group in groups]
    return [move for move in found if move is not None]


def _lost(move: _Move) -> float:
    return move.lost


def _narrowest(state: _State) -> _State:
    """Return the smallest widths, for the case that no single move saves anything.

    Raises:
        ValueError: If even these exceed a budget.
    """
    for group in np.flatnonzero(
        state.kept > state.search.min_channels
    ).tolist():
        narrower = state.narrower(group)
        allowed = np.isfinite(narrower.saved).all(axis=0)
        if allowed.any():
            width = int(narrower.widths[allowed][-1])
            state = state.change(_Move(group, width, 0.0, 0.0))
    if not state.fits:
        over = np.array(list(state.search.budgets))[state.excess > 0]
        raise ValueError(
            f"{', '.join(over)} exceeds its target, but removing channels from any "
            "group would not help. Reduce less, or allow groups to keep fewer "
            "channels."
        )
    return state


def _give_back(state: _State) -> _State:
    """Return a state with all channels put back that the budgets allow.

    Channels that cost nothing come first, then those that are worth most.
    """
    search = state.search
    # If there are stairs, their budgets are the tightest.
    priced = search.stairs if search.stairs.any() else ~search.stairs
    weights = priced / np.maximum(np.abs(search.highest), TINY)
    refused: dict[int, set[int]] = {}
    while True:
        room = state.room
        offers = [
            state.wider(group).offer(room, weights, refused.get(group, ()))
            for group in np.flatnonzero(state.kept < search.alive).tolist()
        ]
        found = [offer for offer in offers if offer is not None]
        if not found:
            return state
        offer = max(found, key=lambda offer: offer.worth)
        after = state.change(offer)
        if after.fits:
            state = after
            refused.clear()
        else:  # Because of rounding.
            refused.setdefault(offer.group, set()).add(offer.width)


def _exchange(state: _State) -> _State:
    """Return a state in which no exchange between two groups reduces the loss."""
    alive, improved = state.search.alive, True
    while improved:
        improved = False
        for group in range(len(state.kept)):
            step = 1
            while state.kept[group] + step <= alive[group]:
                after = _exchanged(state, group, int(state.kept[group] + step))
                if after is not None:
                    state, improved = after, True
                step *= 2
    return state


def _exchanged(state: _State, group: int, width: int) -> _State | None:
    """Return a better state with one group widened and another narrowed, or None."""
    after = state.change(_Move(group, width, 0.0, 0.0))
    if not after.fits:
        others = [g for g in range(len(state.kept)) if g != group]
        moves = _enough(after, others)
        if not moves:
            return None
        after = after.change(min(moves, key=_lost))
    better = state.loss - after.loss > CLOSE * abs(state.loss)
    return _give_back(after) if after.fits and better else None
