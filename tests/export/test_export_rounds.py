"""Intervals and verdicts on times that are made up."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import pytest
from scipy import stats

from kprune.export.benchmark import latency
from kprune.export.compare import Comparison
from kprune.export.intervals import Ratio
from kprune.export.intervals import median_interval
from kprune.export.intervals import paired_ratio
from kprune.export.rounds import Rounds


class Machine:
    """A clock that only advances while an action runs, on a noisy machine.

    Args:
        costs: Seconds of each action in quiet moments.
        luck: Standard deviation of the logarithm of what an instance costs.
        noise: Standard deviation of the logarithm of a run's time.
        drift: Function of the time that slows everything down.
    """

    def __init__(
        self, costs, noise=0.1, drift=lambda now: 1.0, luck=0.0, seed=0
    ):
        self.now = 0.0
        self.calls = []
        self._rng = np.random.default_rng(seed)
        self._costs, self._noise = costs, noise
        self._drift, self._luck = drift, luck

    def _lognormal(self, spread):
        return math.exp(spread * self._rng.standard_normal())

    def _instance(self, position):
        cost = self._costs[position] * self._lognormal(self._luck)

        def run():
            self.calls.append(position)
            jitter = self._lognormal(self._noise)
            self.now += cost * jitter * self._drift(self.now)

        return run

    def rounds(self, seconds=0.01, seed=0):
        prepare = [
            functools.partial(self._instance, i)
            for i in range(len(self._costs))
        ]
        return Rounds(prepare, seconds, seed, clock=lambda: self.now)


def test_the_interval_of_a_median_has_the_ends_of_the_sign_test():
    rng = np.random.default_rng(0)
    for count in (6, 9, 20, 51):
        values = np.sort(rng.standard_normal(count))
        # The largest k with P(Binomial(n, 1/2) < k) <= 2.5 %.
        k = int(stats.binom.ppf(0.025, count, 0.5))
        while stats.binom.cdf(k - 1, count, 0.5) > 0.025:
            k -= 1
        assert median_interval(values) == (values[k - 1], values[-k])
    assert median_interval(values[:5]) == (-math.inf, math.inf)


@pytest.mark.parametrize("truth", [0.97, 1.0, 1.4])
def test_the_interval_covers_the_truth(truth):
    """95 % of intervals must; of 40 series, 33 or fewer are 3 in 1000."""
    covered = wrong = 0
    for seed in range(40):
        machine = Machine(
            (0.002, 0.002 * truth),
            noise=0.2,
            drift=lambda now: 1 + 0.5 * math.sin(7 * now),
            luck=0.02,
            seed=seed,
        )
        rounds = machine.rounds(seed=seed)
        rounds.until(least=10, precision=0.05, time_limit=3)
        found = rounds.ratios()[1]
        covered += found.low <= truth <= found.high
        right = {"no difference shown"} | (
            {"faster"} if truth < 1 else {"slower"} if truth > 1 else set()
        )
        wrong += found.verdict not in right
    assert covered > 33
    assert wrong <= 6


@pytest.mark.parametrize(
    ("truth", "verdict"), [(0.5, "faster"), (1.3, "slower")]
)
def test_large_differences_are_told(truth, verdict):
    rounds = Machine((0.002, 0.002 * truth)).rounds()
    rounds.until(least=10, precision=0.02, time_limit=60)
    found = rounds.ratios()[1]
    assert found.verdict == verdict and found.width <= 0.02
    assert found.value == pytest.approx(truth, rel=0.02)


def test_a_step_in_the_speed_of_the_machine_cancels():
    machine = Machine((0.002, 0.001), drift=lambda now: 1 + 2 * (now > 0.4))
    rounds = machine.rounds()
    rounds.until(least=20, precision=None, time_limit=0)
    assert rounds.count == 20
    found = rounds.ratios()[1]
    assert found.low < 0.5 < found.high and found.width < 0.15
    # Each on its own, the times spread threefold.
    medians = rounds.medians()[0]
    assert medians.max() > 2.5 * medians.min()


def test_outliers_move_the_ratio_little():
    machine = Machine((0.001, 0.001), noise=0.02)
    strange = machine.rounds()
    strange.until(least=20, precision=None, time_limit=0)
    for position in (3, 7, 11):
        strange.times[1][position] = [50.0]
    found = strange.ratios()[1]
    assert found.verdict == "no difference shown" and found.width < 0.1


def test_rounds_are_shuffled_and_every_action_runs_in_each():
    machine = Machine((0.001, 0.001, 0.001), noise=0)
    rounds = machine.rounds(seconds=0)
    rounds.until(least=30, precision=None, time_limit=0)
    # Three runs that warm up and three that count, of one action at a time.
    blocks = [machine.calls[i : i + 6] for i in range(0, 6 * 90, 6)]
    assert all(len(set(block)) == 1 for block in blocks)
    orders = [
        tuple(b[0] for b in blocks[i : i + 3]) for i in range(0, len(blocks), 3)
    ]
    assert all(sorted(order) == [0, 1, 2] for order in orders)
    assert set(orders) == set(itertools.permutations(range(3)))
    again = Machine((0.001, 0.001, 0.001), noise=0)
    again.rounds(seconds=0).until(least=30, precision=None, time_limit=0)
    assert again.calls == machine.calls


def test_rounds_double_until_the_interval_is_narrow():
    counts = []
    for noise in (0.001, 0.1):
        rounds = Machine((0.001, 0.0012), noise=noise).rounds(seconds=0)
        rounds.until(least=10, precision=0.05, time_limit=1e9)
        assert rounds.ratios()[1].width <= 0.05
        counts.append(rounds.count)
    assert counts[0] == 10
    assert counts[1] in (40, 80, 160, 320)


def test_the_time_limit_ends_a_hopeless_measurement():
    machine = Machine((0.001, 0.001), noise=1.0)
    rounds = machine.rounds(seconds=0)
    rounds.until(least=10, precision=1e-4, time_limit=0.5)
    assert 10 < rounds.count and 0.5 <= machine.now < 0.7


@pytest.mark.parametrize(
    ("ratio", "sentence"),
    [
        (
            Ratio(1 / 1.83, 1 / 1.86, 1 / 1.80),
            "b is 1.83x faster than a (95 % CI 1.80-1.86)",
        ),
        (
            Ratio(1.5, 1.25, 1.75),
            "b is 1.50x slower than a (95 % CI 1.25-1.75)",
        ),
        (
            Ratio(1.004, 1.003, 1.005),
            "b is 1.0040x slower than a (95 % CI 1.0030-1.0050)",
        ),
        (
            Ratio(1.0, 0.98, 1.03),
            "no difference between b and a is shown (95 % CI of the ratio "
            "0.98-1.03)",
        ),
        (
            Ratio(1.0, 0.9991, 1.0004),
            "no difference between b and a is shown (95 % CI of the ratio "
            "0.9991-1.0004)",
        ),
    ],
)
def test_sentences(ratio, sentence):
    assert ratio.sentence("b", "a") == sentence


def test_ratios_are_paired_by_round():
    first = np.array([1.0, 10, 100, 1000, 1e4, 1e5, 1e6])
    found = paired_ratio(0.5 * first, first)
    for number in (found.value, found.low, found.high):
        assert number == pytest.approx(0.5)


def test_a_comparison_becomes_plain_data_and_text():
    times = latency([1.0] * 20, 2, "LiteRT")
    found = Comparison(
        ("a", "b"), (times, times), (Ratio(1, 1, 1), Ratio(2, 1.9, 2.1)), 12
    )
    plain = found.to_dict()
    assert plain["rounds"] == 12
    assert plain["models"][1]["ratio"] == {
        "value": 2,
        "low": 1.9,
        "high": 2.1,
        "verdict": "slower",
    }
    assert plain["models"][0]["threads"] == 2
    assert plain["verdicts"] == ["b is 2.00x slower than a (95 % CI 1.90-2.10)"]
    assert str(found).splitlines()[2] == plain["verdicts"][0]


def test_blocks_of_runs_give_the_interval_of_one_latency():
    # Two speeds, in long stretches: hundreds of runs, but few observations.
    times = np.repeat([1.0, 2.0, 1.0, 2.0, 1.0], 200)
    found = latency(times, 1, "LiteRT")
    assert (found.low, found.median, found.high) == (1.0, 1.0, 2.0)
    assert "95 % CI 1-2" in str(found)
    few = latency([1.0, 2.0, 3.0], 1, "LiteRT")
    assert few.to_dict()["low"] is None and "CI" not in str(few)
