"""The widths that meet all ceilings at the least loss.

Every group has a ladder: what is lost at each width. The search looks at all widths
that a group could get, not only at the next one, because some costs are stairs:
latency falls in steps as channels go, and can even rise. It goes in three steps.

1. Channels go. Of each group, the widths that save more than every wider one are
   the edges of its steps. The width that saves most per loss is taken, again and
   again, until all ceilings hold.
2. Channels come back wherever they still fit.
3. Groups exchange channels while that loses less. Not on stairs: there the
   ceilings leave little room, and many widths would have to be looked at.
"""

from __future__ import annotations

import functools
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kprune.cost.evaluator import Evaluator

TINY = 1e-12
"""A loss, a cost or a relative difference that counts as none."""

CLOSE = 1e-9
"""Relative difference between numbers that count as equal."""


class Search:
    """Chooses how many channels each group keeps.

    Args:
        costs: Costs for kept counts.
        ceilings: The highest cost allowed, by name.
        lost: For each group `(size + 1,)` the loss at each width. It must not rise
            with the width.
        floors: `(groups,)` fewest channels of each group.
        alive: `(groups,)` channels that there are.
    """

    def __init__(
        self,
        costs: Evaluator,
        ceilings: Mapping[str, float],
        lost: Sequence[np.ndarray],
        floors: np.ndarray,
        alive: np.ndarray,
    ) -> None:
        self.costs = costs
        self.ceilings = dict(ceilings)
        self.lost = lost
        self.floors = np.minimum(floors, alive)
        self.alive = np.array(alive)
        names = list(self.ceilings)
        self.highest = np.array(list(self.ceilings.values()))
        self.maxima = np.array([n in costs.maxima for n in names], bool)
        self.stairs = np.array([n in costs.stairs for n in names], bool)

    def run(self) -> np.ndarray:
        """Return `(groups,)` kept counts that meet all ceilings.

        Raises:
            ValueError: The ceilings cannot be met.
        """
        state = _give_back(_reduce(_State(self, self.alive)))
        if not self.stairs.any():
            state = _exchange(state)
        return state.kept


class _Move(NamedTuple):
    """Another width for a group.

    Args:
        group: Number of the group.
        width: Channels that it would keep.
        lost: Loss that comes with it, negative where some is undone.
        worth: What is saved per loss, or undone per cost.
    """

    group: int
    width: int
    lost: float
    worth: float


class _Widths:
    """All narrower, or all wider, widths of a group, the nearest first.

    Args:
        group: Number of the group.
        widths: `(n,)` channels that it would keep.
        lost: `(n,)` losses, negative where some is undone.
        saved: `(costs, n)` savings, see `Evaluator.savings`.
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
        """Return the narrower width that saves most per loss, if any saves.

        Args:
            excess: `(costs,)` how far costs are above their ceilings. Several are
                counted as shares of it, and none is saved beyond what it exceeds.
                That makes them comparable, but only until the next move.
            cap: Largest saving that counts, where there is but one cost.
        """
        over = excess > 0
        if over.sum() == 1:
            key, saved = over.tobytes(), self.saved[over][0]
        else:
            shares = self.saved[over] / excess[over][:, None]
            key, saved = excess.tobytes(), np.minimum(shares, 1.0).sum(axis=0)
        most = float(saved.max(initial=0.0))
        # The same bargain as before, if nothing that it depends on has changed.
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
        """Return the narrower width that saves enough and loses least."""
        over = excess > 0
        wanted = (1 - TINY) * excess[over][:, None]
        suffices = (self.saved[over] >= wanted).all(axis=0)
        if not suffices.any():
            return None
        return self._move(int(np.argmax(suffices)), 0.0)

    def offer(
        self, room: np.ndarray, priced: np.ndarray, refused: Collection[int]
    ) -> _Move | None:
        """Return the wider width that undoes most loss for what it costs.

        Args:
            room: `(costs,)` how much each cost may rise.
            priced: `(costs,)` weights of the costs in the price.
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
    """Return where worth is highest, the last of equals: fewer moves."""
    most = float(worth.max())
    return int(np.flatnonzero(worth >= most - CLOSE * abs(most))[-1])


class _State:
    """Kept counts, and what other widths of each group would bring.

    Args:
        search: What is searched for.
        kept: `(groups,)` channels that each group keeps.
        known: Widths of groups that were looked at already: those of a group
            that are narrower (False) or wider (True).
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
        stale = {move.group, *search.costs.near(move.group, search.ceilings)}
        kept = self.kept.copy()
        kept[move.group] = move.width
        known = {k: w for k, w in self._known.items() if k[0] not in stale}
        return _State(search, kept, known)

    @functools.cached_property
    def excess(self) -> np.ndarray:
        """`(costs,)` how far costs are above their ceilings, 0 where not."""
        search = self.search
        by_name = search.costs.excess(self.kept, search.ceilings)
        return np.array([float(by_name[name]) for name in search.ceilings])

    @property
    def fits(self) -> bool:
        """Whether all ceilings hold."""
        return not (self.excess > 0).any()

    @property
    def loss(self) -> float:
        """The sum of the groups' losses."""
        pairs = zip(self.search.lost, self.kept, strict=True)
        return float(sum(lost[width] for lost, width in pairs))

    @property
    def room(self) -> np.ndarray:
        """`(costs,)` how much each may rise, and a little for rounding."""
        search = self.search
        costs = search.costs.evaluate(self.kept)
        now = np.array([float(costs[name]) for name in search.ceilings])
        # Savings of a maximum are those of its excess, which must not rise.
        room = np.where(search.maxima, 0.0, search.highest - now)
        return room + CLOSE * np.abs(search.highest)

    def narrower(self, group: int) -> _Widths:
        """Return what is lost and saved at all narrower widths of a group."""
        floor = self.search.floors[group]
        return self._widths(group, floor - 1, -1)

    def wider(self, group: int) -> _Widths:
        """Return what is undone and paid at all wider widths of a group."""
        return self._widths(group, self.search.alive[group] + 1, 1)

    def _widths(self, group: int, end: int, step: int) -> _Widths:
        found = self._known.get((group, step > 0))
        if found is None:
            search, kept = self.search, self.kept
            widths = np.arange(kept[group] + step, end, step)
            saved = search.costs.savings(kept, group, widths, search.ceilings)
            lost = search.lost[group]
            found = self._known[group, step > 0] = _Widths(
                group,
                widths,
                lost[widths] - lost[kept[group]],
                np.array([saved[name] for name in search.ceilings]),
            )
        return found


def _reduce(state: _State) -> _State:
    """Return a state that meets all ceilings, found move by move.

    Raises:
        ValueError: There is none.
    """
    groups = range(len(state.kept))
    while not state.fits:
        excess = state.excess
        # One channel that saves far more than is needed is no bargain.
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
    """Return a state that meets all ceilings, one move away.

    The last move need not be the best bargain: it saves more than is needed.

    Args:
        state: A state that does not meet them.
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
    """Return, of each group that can do it alone, what meets all ceilings."""
    found = [state.narrower(group).enough(state.excess) for group in groups]
    return [move for move in found if move is not None]


def _lost(move: _Move) -> float:
    return move.lost


def _narrowest(state: _State) -> _State:
    """Return the narrowest widths, where no group saves anything by itself.

    Raises:
        ValueError: Even these exceed a ceiling.
    """
    for group in np.flatnonzero(state.kept > state.search.floors).tolist():
        narrower = state.narrower(group)
        allowed = np.isfinite(narrower.saved).all(axis=0)
        if allowed.any():
            width = int(narrower.widths[allowed][-1])
            state = state.change(_Move(group, width, 0.0, 0.0))
    if not state.fits:
        over = np.array(list(state.search.ceilings))[state.excess > 0]
        raise ValueError(
            "No group can get narrower in a way that helps, and "
            f"{', '.join(over)} exceeds its target. Ask for less, or let groups "
            "keep fewer channels."
        )
    return state


def _give_back(state: _State) -> _State:
    """Return a state with all channels that the ceilings allow.

    First those that cost nothing, then those that are worth most for it.
    """
    search = state.search
    # Of stairs there is the least room.
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
        else:  # Rounding.
            refused.setdefault(offer.group, set()).add(offer.width)


def _exchange(state: _State) -> _State:
    """Return a state in which no two groups gain by exchanging channels."""
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
    """Return a better state in which a group gets wider and another narrower."""
    after = state.change(_Move(group, width, 0.0, 0.0))
    if not after.fits:
        others = [g for g in range(len(state.kept)) if g != group]
        moves = _enough(after, others)
        if not moves:
            return None
        after = after.change(min(moves, key=_lost))
    better = state.loss - after.loss > CLOSE * abs(state.loss)
    return _give_back(after) if after.fits and better else None
