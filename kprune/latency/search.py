"""Which widths meet a latency at the least loss of score.

Time is a staircase that goes up as well as down as channels go, so that no order
of channels can be cut off at a point, as it can for MACs. What can be done to one
group is looked at as a whole instead: of all widths that it could get, those that
are faster than every wider one lie on the edges of steps; the one that saves the
most time per lost score is taken, and the groups that share operators with it are
looked at again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from kprune.latency.conversion import KERNELS
from kprune.latency.model import LatencyModel

SLOWER = 0.02
"""How much longer a kernel may seem to take than unpruned: noise of timing."""

Evaluate = Callable[[np.ndarray], Mapping[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class _Move:
    """A new width for a group.

    Args:
        group: Number of the group.
        width: How many channels it keeps.
        lost: Score that goes; negative where some comes back.
        saved: What is saved, in milliseconds, or, of several costs, as share of
            what they exceed their ceilings by; negative where some comes back.
    """

    group: int
    width: int
    lost: float
    saved: float

    @property
    def worth(self) -> float:
        """What is saved per loss, or what is won per time that it takes."""
        if self.lost > 0:
            return self.saved / self.lost
        return -self.lost / max(-self.saved, 1e-12)


class Search:
    """Chooses how many channels each group keeps.

    Args:
        latency: Predicted latency for kept counts.
        evaluate: All costs for kept counts `(n, groups)`, `"latency"` among
            them.
        ceilings: The highest cost allowed, by name.
        lost: For each group `(size + 1,)`: the score that is lost at each width.
        floors: `(groups,)` fewest channels of each group.
    """

    def __init__(
        self,
        latency: LatencyModel,
        evaluate: Evaluate,
        ceilings: Mapping[str, float],
        lost: Sequence[np.ndarray],
        floors: np.ndarray,
    ) -> None:
        self._latency = latency
        self._evaluate = evaluate
        self._ceilings = dict(ceilings)
        self._lost = lost
        self._floors = floors
        members = [op.groups() for op in latency.operators]
        count = len(latency.sizes)
        self._touching = [
            [n for n, groups in enumerate(members) if g in groups]
            for g in range(count)
        ]
        self._near = [
            {other for n in self._touching[g] for other in members[n]}
            for g in range(count)
        ]
        self._kernel = np.array(
            [op.key.startswith(KERNELS) for op in latency.operators]
        )
        self._limit = (1 + SLOWER) * latency.each(latency.sizes)

    def run(self, kept: np.ndarray) -> np.ndarray:
        """Return `(groups,)` kept counts that meet all ceilings.

        Args:
            kept: `(groups,)` channels that are alive.

        Raises:
            ValueError: The ceilings cannot be met.
        """
        alive, kept = kept, kept.copy()
        best: dict[int, _Move | None] = {}
        single = len(self._ceilings) == 1
        while excess := self._excess(kept):
            # Shares grow as the excess shrinks: they make several costs
            # comparable, but not the moves found at different times.
            units = {"latency": 1.0} if single else excess
            enough = excess["latency"] if single else 1.0
            for group in range(len(kept)):
                if group not in best:
                    moves = self._moves(kept, group, units)
                    best[group] = max(
                        moves, key=lambda m: m.worth, default=None
                    )
            chosen = [move for move in best.values() if move is not None]
            if not chosen:
                raise ValueError(
                    "No group can become faster, and "
                    f"{', '.join(excess)} exceeds its target."
                )
            move = max(chosen, key=lambda m: m.worth)
            if move.saved >= enough:  # The last need not be the best bargain.
                move = min(
                    (
                        m
                        for group in range(len(kept))
                        for m in self._moves(kept, group, units)
                        if m.saved >= enough
                    ),
                    key=lambda m: m.lost,
                )
            kept[move.group] = move.width
            if not single:
                best.clear()  # Other costs couple all groups.
            for group in self._near[move.group] | {move.group}:
                best.pop(group, None)
        return self._put_back(kept, alive)

    def _excess(self, kept: np.ndarray) -> dict[str, float]:
        """Return by how much costs exceed their ceilings."""
        costs = self._evaluate(kept)
        return {
            name: float(costs[name]) - ceiling
            for name, ceiling in self._ceilings.items()
            if costs[name] > ceiling
        }

    def _moves(
        self, kept: np.ndarray, group: int, units: Mapping[str, float]
    ) -> list[_Move]:
        """Return the widths of a group on the edges of steps."""
        widths = np.arange(kept[group] - 1, self._floors[group] - 1, -1)
        saved, allowed = self._saved(kept, group, widths, units)
        lost = self._lost[group]
        moves, most = [], 0.0
        for width, gain in zip(widths[allowed], saved[allowed], strict=True):
            if gain > most * (1 + 1e-9) + 1e-12:
                most = gain
                loss = lost[width] - lost[kept[group]]
                moves.append(_Move(group, int(width), float(loss), float(gain)))
        return moves

    def _saved(
        self,
        kept: np.ndarray,
        group: int,
        widths: np.ndarray,
        units: Mapping[str, float],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return what each width saves, in units of each cost, and if it may be."""
        rows = np.repeat(kept[None], len(widths) + 1, axis=0)
        rows[1:, group] = widths
        touching = self._touching[group]
        times = self._latency.each(rows, touching)
        kernel = self._kernel[touching]
        # Also where it is too slow already, as in a model pruned by others.
        limit = np.maximum(self._limit[touching], times[0])[kernel]
        allowed = (times[1:][:, kernel] <= limit).all(axis=1)
        shares = []
        for name, unit in units.items():
            if name == "latency":
                cost = times.sum(axis=1)
            else:
                cost = np.asarray(self._evaluate(rows)[name])
            shares.append((cost[0] - cost[1:]) / unit)
        # Of several costs, none is saved beyond what it exceeds.
        most = 1.0 if len(shares) > 1 else np.inf
        return np.minimum(shares, most).mean(axis=0), allowed

    def _put_back(self, kept: np.ndarray, alive: np.ndarray) -> np.ndarray:
        """Give channels back wherever the ceilings still hold.

        First those that cost no time, then those that are worth most for it.
        """
        offers: dict[int, list[_Move]] = {}
        while True:
            room = self._ceilings["latency"] - float(self._latency(kept))
            best: _Move | None = None
            for group in np.flatnonzero(kept < alive).tolist():
                if group not in offers:
                    offers[group] = self._offers(kept, group, alive[group])
                for move in offers[group]:
                    if -move.saved > room or (
                        best and move.worth <= best.worth
                    ):
                        continue
                    if self._fits(kept, move):
                        best = move
            if best is None:
                return kept
            kept[best.group] = best.width
            for group in self._near[best.group] | {best.group}:
                offers.pop(group, None)

    def _offers(self, kept: np.ndarray, group: int, most: int) -> list[_Move]:
        """Return the wider widths of a group that make no kernel slower."""
        widths = np.arange(kept[group] + 1, most + 1)
        saved, allowed = self._saved(kept, group, widths, {"latency": 1.0})
        lost = self._lost[group]
        return [
            _Move(group, int(w), float(lost[w] - lost[kept[group]]), float(s))
            for w, s in zip(widths[allowed], saved[allowed], strict=True)
        ]

    def _fits(self, kept: np.ndarray, move: _Move) -> bool:
        """Return whether all other ceilings hold after a move."""
        if len(self._ceilings) == 1:
            return True
        trial = kept.copy()
        trial[move.group] = move.width
        return not self._excess(trial)
