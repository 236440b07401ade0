"""Time several actions in turns."""

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
    """Rounds that time each of several actions for a short while.

    A disturbance affects neighbouring blocks alike and cancels in the ratio of
    their medians. Each round prepares the actions again, in another order: the
    memory address of a model can make it a few percent slower, which would
    otherwise hit the same action in every round, even among copies of one file.

    Args:
        prepare: One function per action, which returns a fresh instance of it.
        seconds: Minimum time per action and round. A tenth of it is spent before
            on warming up.
        seed: Seed of the order.
        clock: Function that returns the time in seconds.

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
        """Run one round."""
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
        """Run rounds until every ratio is known precisely enough.

        Intervals are checked only after `least` rounds, twice as many, four times
        as many and so on: stopping at the first lucky moment would make them too
        narrow.

        Args:
            least: Number of rounds before the first check.
            precision: Accepted width of the ratios' intervals, as a share of
                the ratio. None stops after `least` rounds.
            time_limit: Seconds after which no further round begins.
        """
        end = self._clock() + time_limit
        target = least
        while True:
            while self.count < target:
                if self.count >= least and self._clock() >= end:
                    return
                self.once()
            widest = max(ratio.width for ratio in self.ratios())
            if precision is None or widest <= precision:
                return
            target *= 2

    def medians(self) -> np.ndarray:
        """Return the median of each block: `(actions, rounds)`, milliseconds."""
        return np.array(
            [[np.median(block) for block in rows] for rows in self.times]
        )

    def ratios(self) -> tuple[Ratio, ...]:
        """Return the latency of each action divided by that of the first."""
        medians = self.medians()
        return tuple(paired_ratio(row, medians[0]) for row in medians)
