"""Search for widths whose costs only the whole model tells.

A compiler that fuses operators, or a plan of memory, says what one model takes, at the
price of a call; of all other widths there are estimates. So `Search` goes by the
estimates, corrected by what was said of the widths that it found. The best widths that
hold are then improved in steps: channels are put back into one group, and if that is
too much, taken from another. A step is one of which less is lost, all that is known
says that it fits, and the whole model agrees.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kprune.allocation._search import CLOSE
from kprune.allocation._search import TINY
from kprune.allocation._search import Search

_STARTS = 6
"""Searches by estimates at most."""

_CALLS = 150
"""Questions about whole models at most, while widths are improved."""

_PATIENCE = 50
"""Questions without a better answer before the widths count as the best."""

_DOUBT = 0.04
"""How wrong an estimate may be a whole group's width away from what is known."""

_BLAME = 0.1
"""By how much a cost may fall that exceeds its budget if a group gets e times narrower,
at first and at most."""

_MISS = 1.1
"""Costs, as shares of the budgets, of widths that may be nearly right."""

_CENTRES = 3
"""Widths that miss a budget by little whose neighbours are looked at."""

_CHANGES = 5
"""Groups that change at most from one known place to the next."""

_ROWS = 4_000
"""Widths at most whose costs are estimated at once."""

_LEVELS = 100
"""Widths of all groups together, of each direction, that are tried."""


class _Known(NamedTuple):
    """What the whole model says of some widths.

    Args:
        kept: Kept counts, of shape `(groups,)`.
        loss: Their loss.
        told: Their costs, of shape `(costs,)`.
        estimate: What was expected of these.
        over: The costs as shares of the budgets, the largest.
    """

    kept: np.ndarray
    loss: float
    told: np.ndarray
    estimate: np.ndarray
    over: float

    @property
    def ratios(self) -> np.ndarray:
        """What to multiply estimates by, of shape `(costs,)`."""
        return self.told / np.maximum(self.estimate, TINY)


def _loss(known: _Known) -> float:
    return known.loss


def _over(known: _Known) -> float:
    return known.over


class WholeSearch(Search):
    """Chooses how many channels each group keeps, asking about whole models.

    See `Search` for the arguments. Costs are those that `evaluate` returns for a single
    row; for several rows, it estimates.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._known: dict[tuple[int, ...], _Known] = {}
        self._wrong = np.array(
            [name in self.costs.estimated for name in self.budgets]
        )
        self._blame = np.full((len(self.budgets), len(self.alive)), _BLAME)

    def run(self) -> np.ndarray:
        """Return kept counts of shape `(groups,)` that meet all budgets.

        Raises:
            ValueError: If the budgets cannot be met.
        """
        if self._tell(self.alive).over <= 1:
            return self.alive
        error = self.start()
        self.improve()
        if self.best is None:
            self._tell(self.min_channels)
            self.improve()
        if self.best is None:
            names = ", ".join(self.budgets)
            raise ValueError(
                f"No widths were found at which {names} of the whole model meet "
                "their targets. Reduce less, or allow groups to keep fewer channels."
            ) from error
        return self.best

    # -- what is known -------------------------------------------------------

    def loss(self, rows: np.ndarray) -> np.ndarray:
        """Return the sums of the groups' losses, of shape `(n,)`."""
        columns = zip(self.lost, np.atleast_2d(rows).T, strict=True)
        return np.sum([lost[widths] for lost, widths in columns], axis=0)

    @property
    def best(self) -> np.ndarray | None:
        """The widths that lose least of those known to fit, if there are any."""
        fitting = [known for known in self._known.values() if known.over <= 1]
        return min(fitting, key=_loss).kept if fitting else None

    def _tell(self, kept: np.ndarray) -> _Known:
        """Return what the whole model says of some widths."""
        kept = np.asarray(kept)
        key = tuple(kept.tolist())
        if key not in self._known:
            said = self.costs.evaluate(kept)
            told = np.array([float(said[name]) for name in self.budgets])
            (estimate,) = self._estimates(kept[None])
            found = _Known(
                kept,
                float(self.loss(kept)[0]),
                told,
                estimate,
                float((told / self.highest).max()),
            )
            if self._known:
                (near,), _ = self._nearest(kept[None])
                self._learn(found, list(self._known.values())[near])
            self._known[key] = found
        return self._known[key]

    def _estimates(self, rows: np.ndarray) -> np.ndarray:
        """Return estimated costs of shape `(n, costs)`."""
        found = self.costs.evaluate(rows)
        columns = [
            np.broadcast_to(found[name], len(rows)) for name in self.budgets
        ]
        return np.stack(columns, axis=-1).astype(float)

    def _over(self, rows: np.ndarray) -> np.ndarray:
        """Return estimated costs as shares of the budgets, the largest of each row.

        Estimates are corrected as those of the nearest known widths are, and cut by
        some doubt: by how far away these are, or, if they exceed the budget, by how
        much narrower groups are that may be why.
        """
        known = list(self._known.values())
        near, apart = self._nearest(rows)
        far = _DOUBT * np.minimum(apart, 1)[:, None]
        exceeded = np.array([k.told > self.highest for k in known])[near]
        kept = np.array([k.kept for k in known])[near]
        narrower = np.log(np.maximum(kept / np.maximum(rows, 1), 1))
        why = np.minimum(narrower @ self._blame.T, _BLAME)
        doubt = self._wrong * np.where(exceeded, why, far)
        ratios = np.array([k.ratios for k in known])[near]
        costs = self._estimates(rows) * ratios / (1 + doubt)
        return (costs / self.highest).max(axis=1)

    def _nearest(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return which known widths are nearest, and how far away they are."""
        known = np.array([k.kept for k in self._known.values()])
        apart = np.zeros((len(rows), len(known)))
        scaled = zip((rows / self.alive).T, (known / self.alive).T, strict=True)
        for at, place in scaled:
            apart += np.abs(at[:, None] - place)
        near = apart.argmin(axis=1)
        return near, apart[np.arange(len(rows)), near]

    def _learn(self, known: _Known, before: _Known) -> None:
        """Notice which narrower groups were not why a budget was exceeded."""
        narrower = known.kept < before.kept
        for cost, limit in enumerate(self.highest):
            if before.told[cost] > limit:
                helped = known.told[cost] < before.told[cost] * (1 - CLOSE)
                self._blame[cost, narrower] *= 2.0 if helped else 0.5
        np.minimum(self._blame, _BLAME, out=self._blame)

    # -- the first widths ----------------------------------------------------

    def start(self) -> ValueError | None:
        """Search by estimates, corrected as the widths found last are.

        Returns:
            Why a search failed, if one did.
        """
        ratios = self._tell(self.alive).ratios
        seen = set()
        for _ in range(_STARTS):
            try:
                kept = self._search(ratios)
            except ValueError as error:  # Too little was allowed.
                return error
            ratios = self._tell(kept).ratios
            if tuple(kept.tolist()) in seen:
                break
            seen.add(tuple(kept.tolist()))
        return None

    def _search(self, ratios: np.ndarray) -> np.ndarray:
        pairs = zip(self.budgets.items(), ratios, strict=True)
        budgets = {n: most / max(ratio, TINY) for (n, most), ratio in pairs}
        return Search(
            self.costs, budgets, self.lost, self.min_channels, self.alive
        ).run()

    # -- step by step --------------------------------------------------------

    def improve(self) -> None:
        """Ask about widths that lose less than the best, while any seem to fit."""
        patience = _PATIENCE
        for _ in range(_CALLS):
            after = self._next()
            if after is None or not patience:
                break
            fits = self._tell(after).over <= 1
            patience = _PATIENCE if fits else patience - 1

    def _next(self) -> np.ndarray | None:
        """Return the widths that lose least and seem to fit, near known ones."""
        known = sorted(self._known.values(), key=_loss)
        fitting = [k for k in known if k.over <= 1][:1]
        most = fitting[0].loss if fitting else np.inf
        misses = [k for k in known if 1 < k.over <= _MISS and k.loss < most]
        centres = fitting + sorted(misses, key=_over)[:_CENTRES]
        if not centres:
            return None
        levels = self._levels(centres[0].kept)
        beam = np.array([k.kept for k in centres])
        width = max(2, _ROWS // (2 * max(1, sum(map(len, levels)))))
        found = []
        for _ in range(_CHANGES):
            rows = self._changed(beam, levels)
            losses, over = self.loss(rows), self._over(rows)
            seems, better = over <= 1, losses < most * (1 - CLOSE)
            found.append(rows[seems & better])
            fits = np.flatnonzero(seems)
            gains = np.flatnonzero(better)
            fits = fits[np.argsort(losses[fits], kind="stable")[:width]]
            gains = gains[np.argsort(over[gains], kind="stable")[:width]]
            beam = rows[np.union1d(fits, gains)]
            if not len(beam):
                break
        rows = np.concatenate(found)
        for row in rows[np.argsort(self.loss(rows), kind="stable")]:
            if tuple(row.tolist()) in self._known:
                continue
            if any(self._allowed(k.kept, row) for k in centres):
                return row
        return None

    def _changed(
        self, beam: np.ndarray, levels: Sequence[np.ndarray]
    ) -> np.ndarray:
        """Return `(n, groups)` widths with one change to those of a beam."""
        found = []
        for group, widths in enumerate(levels):
            rows = np.repeat(beam, len(widths), axis=0)
            rows[:, group] = np.tile(widths, len(beam))
            found.append(rows)
        return np.unique(np.concatenate(found), axis=0)

    def _levels(self, kept: np.ndarray) -> list[np.ndarray]:
        """Return widths of each group at which one more channel costs something."""
        count = max(2, _LEVELS // len(kept))
        found = []
        for group, most in enumerate(self.alive.tolist()):
            widths = np.arange(self.min_channels[group], most + 1)
            rows = np.repeat(kept[None], len(widths), axis=0)
            rows[:, group] = widths
            estimates = self._estimates(rows)
            dearer = (estimates[1:] > estimates[:-1] * (1 + CLOSE)).any(axis=1)
            edges = widths[np.append(dearer, True)]
            wider = edges[edges > kept[group]]
            narrower = edges[edges < kept[group]][::-1]
            found.append(
                np.concatenate(
                    [_spread(narrower, count), _spread(wider, count)]
                )
            )
        return found

    def _allowed(self, kept: np.ndarray, row: np.ndarray) -> bool:
        """Return whether no change on the way is one that the costs forbid."""
        now = kept.copy()
        for group in np.flatnonzero(row != kept).tolist():
            width = row[[group]]
            saved = self.costs.savings(now, group, width, self.budgets)
            if any(s[0] == -np.inf for s in saved.values()):
                return False
            now[group] = width[0]
        return True


def _spread(ordered: np.ndarray, count: int) -> np.ndarray:
    """Return at most so many of some widths, closer together at first."""
    if len(ordered) <= count:
        return ordered
    places = np.unique(np.geomspace(1, len(ordered), count).astype(int)) - 1
    return ordered[places]
