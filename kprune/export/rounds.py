"""Timing several actions in turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import numpy as np

from kprune.export.benchmark import time_runs
from kprune.export.intervals import Ratio
from kprune.export.intervals import paired_ratio

Action = Callable[[], Any]

_RUNS = 3


class Rounds:
    """Rounds in which each of several actions is timed for a short while.

    A disturbance hits neighbouring blocks alike and cancels in the ratio of
    their medians. In every round the actions are prepared again and in another
    order: where a model's memory happens to lie can make it some percent
    slower, and of two copies of one file the same one in every round.

    Args:
        prepare: One function per action, which returns a fresh instance of it.
        seconds: Least time per action and round; a tenth of it warms up.
        seed: Seed of the order.
        clock: Returns seconds.

    Example:

    ```python
    rounds = Rounds([open_first, open_second], seconds=0.05)
    rounds.until(least=10, precision=0.02, time_limit=30)
    print(rounds.ratios()[1])
    ```
    """

    def __init__(
        self,
        prepare: Sequence[Callable[[], Action]],
        seconds: float,
        seed: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._prepare = prepare
        self._seconds = seconds
        self._rng = np.random.default_rng(seed)
        self._clock = clock
        self.times: list[list[list[float]]] = [[] for _ in prepare]
        """Milliseconds of each run, by action and round."""

    @property
    def count(self) -> int:
        """Number of rounds so far."""
        return len(self.times[0])

    def once(self) -> None:
        """Time each action for a while."""
        count = len(self._prepare)
        actions = {
            position: self._prepare[position]()
            for position in self._rng.permutation(count)
        }
        for position in self._rng.permutation(count):
            action = actions[position]
            time_runs(action, _RUNS, self._seconds / 10, self._clock)
            self.times[position].append(
                time_runs(action, _RUNS, self._seconds, self._clock)
            )

    def until(
        self, least: int, precision: float | None, time_limit: float
    ) -> None:
        """Go on until every ratio is known precisely enough.

        Intervals are looked at after `least` rounds, twice as many, four times
        as many: stopping at the first lucky moment would make them too narrow.

        Args:
            least: Rounds before the first look.
            precision: Accepted width of the ratios' intervals, as a share of
                the ratio; None stops after `least` rounds.
            time_limit: Seconds after which no further round is begun.
        """
        end = self._clock() + time_limit
        goal = least
        while True:
            while self.count < goal:
                if self.count >= least and self._clock() >= end:
                    return
                self.once()
            widest = max(ratio.width for ratio in self.ratios())
            if precision is None or widest <= precision:
                return
            goal *= 2

    def medians(self) -> np.ndarray:
        """Return the median of each block: `(actions, rounds)`, milliseconds."""
        return np.array(
            [[np.median(block) for block in rows] for rows in self.times]
        )

    def ratios(self) -> tuple[Ratio, ...]:
        """Return the latency of each action divided by that of the first."""
        medians = self.medians()
        return tuple(paired_ratio(row, medians[0]) for row in medians)
