"""Widths that meet budgets at the least loss."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from kprune.allocation._search import Search
from kprune.cost.evaluator import Evaluator
from kprune.latency.layout import Placed
from kprune.latency.layout import Width
from kprune.latency.model import SLOWER
from kprune.latency.model import Operators


class Device:
    """A chain of kernels: each reads one group and writes the next.

    Args:
        sizes: Channels of each group.
        times: For each kernel its times by the width written, per width read.
        coupled: Add an operator that all groups go through and that costs no time.
    """

    def __init__(self, sizes, times, coupled=False):
        self.sizes = np.array(sizes)
        self.times = [np.asarray(t, float) for t in times]
        widths = [Width(0.0, {n: 1.0}) for n in range(len(sizes))]
        self.operators = tuple(
            Placed(f"CONV_2D({n})", widths[n - 1] if n else None, width)
            for n, width in enumerate(widths)
        )
        if coupled:
            every = Width(0.0, dict.fromkeys(range(len(sizes)), 1.0))
            self.operators += (Placed("CONCATENATION(0)", every, every),)

    def each(self, kept, only=None):
        kept = np.asarray(kept)
        rows = np.atleast_2d(kept)
        chosen = range(len(self.operators)) if only is None else only
        columns = [
            self.times[n][rows[:, n]] * (rows[:, n - 1] if n else 1)
            if n < len(self.times)
            else np.zeros(len(rows))
            for n in chosen
        ]
        times = np.stack(columns, axis=-1)
        return times if kept.ndim > 1 else times[0]

    def __call__(self, kept):
        return self.each(kept).sum(axis=-1)


class Timed(Evaluator):
    """A device's latency, and the sum of all channels as `"macs"`."""

    stairs = frozenset({"latency"})

    def __init__(self, device):
        self.sizes = device.sizes
        self.device = device
        self.operators = Operators(device)

    def evaluate(self, kept):
        return {
            "latency": self.device(kept),
            "macs": np.asarray(kept).sum(axis=-1),
        }

    def savings(self, kept, group, widths, budgets):
        saved = super().savings(kept, group, widths, budgets)
        return {**saved, "latency": self.operators.saved(kept, group, widths)}

    def near(self, group, names):
        return self.operators.near(group)


def staircase(size, step, dearer=1.0):
    widths = np.arange(size + 1)
    filled = widths % step == 0
    return np.ceil(widths / step) * np.where(filled, 1.0, dearer)


def losses(rng, size):
    worth = np.sort(rng.uniform(0.1, 1.0, size))
    kept = worth[::-1].cumsum()
    return np.concatenate([[np.inf], -np.log(kept / kept[-1])])


def run(device, lost, share, min_channels=None, **budgets):
    min_channels = (
        np.ones(len(device.sizes), int)
        if min_channels is None
        else min_channels
    )
    full = float(device(device.sizes))
    search = Search(
        Timed(device),
        {"latency": share * full, **budgets},
        lost,
        min_channels,
        device.sizes,
    )
    return search.run()


@st.composite
def problems(draw):
    sizes = draw(st.lists(st.integers(4, 24), min_size=1, max_size=5))
    steps = [draw(st.sampled_from([1, 2, 4, 8])) for _ in sizes]
    dearer = [draw(st.sampled_from([1.0, 1.0, 1.4])) for _ in sizes]
    device = Device(sizes, map(staircase, sizes, steps, dearer))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    share = draw(st.floats(0.3, 0.95))
    return device, [losses(rng, size) for size in sizes], share


@settings(max_examples=80)
@given(problems())
def test_budget_holds_on_edges_and_no_kernel_is_slower(problem):
    device, lost, share = problem
    full = device.each(device.sizes)
    try:
        kept = run(device, lost, share)
    except ValueError:
        # Out of reach: even the fewest channels are too slow, or not allowed.
        fewest = device.each(np.ones(len(device.sizes), int))
        too_slow = fewest.sum() > share * full.sum()
        assert too_slow or (fewest > (1 + SLOWER) * full).any()
        return
    assert float(device(kept)) <= share * full.sum() * (1 + 1e-12)
    assert (device.each(kept) <= (1 + SLOWER) * full + 1e-9).all()
    assert (kept >= 1).all() and (kept <= device.sizes).all()
    for group in range(len(kept)):
        for more in range(kept[group] + 1, device.sizes[group] + 1):
            trial = kept.copy()
            trial[group] = more
            slower = device.each(trial) > (1 + SLOWER) * full + 1e-9
            assert float(device(trial)) > share * full.sum() or slower.any(), (
                "a channel could be had for nothing"
            )


@settings(max_examples=80, deadline=None)
@given(problems())
def test_what_is_remembered_between_moves_changes_nothing(problem):
    # All groups share the coupled operator, so each move has all looked at again.
    device, lost, share = problem
    coupled = Device(device.sizes, device.times, coupled=True)

    def outcome(chosen):
        try:
            return run(chosen, lost, share).tolist()
        except ValueError:
            return None

    assert outcome(device) == outcome(coupled)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 999), st.floats(0.4, 0.9))
def test_near_to_the_best_of_all(seed, share):
    rng = np.random.default_rng(seed)
    sizes = [9, 8, 7]
    device = Device(sizes, [staircase(n, 4) for n in sizes])
    lost = [losses(rng, size) for size in sizes]
    kept = run(device, lost, share)
    found = sum(values[n] for values, n in zip(lost, kept, strict=True))
    budget = share * float(device(device.sizes))
    every = itertools.product(*(range(1, size + 1) for size in sizes))
    best = min(
        sum(values[n] for values, n in zip(lost, counts, strict=True))
        for counts in every
        if float(device(np.array(counts))) <= budget
    )
    assert found <= best + 0.25


def test_a_width_that_is_slower_than_a_wider_one_is_not_chosen():
    # 64 to 33 channels take as long as 64, 32 half of it, 24 more than 32.
    times = np.zeros(65)
    times[33:], times[17:32], times[32], times[1:17] = 4.0, 2.6, 2.0, 1.3
    device = Device([64], [times])
    lost = [losses(np.random.default_rng(0), 64)]
    assert run(device, lost, 0.9) == [32]
    assert run(device, lost, 0.55) == [32]
    assert run(device, lost, 0.45) == [16]


def test_floors_hold_and_what_is_out_of_reach_is_said():
    device = Device([16, 16], [staircase(16, 4)] * 2)
    lost = [losses(np.random.default_rng(n), 16) for n in range(2)]
    kept = run(device, lost, 0.8, np.array([12, 4]))
    assert kept[0] >= 12
    with pytest.raises(ValueError, match="latency exceeds"):
        run(device, lost, 0.2, np.array([12, 12]))


def test_other_costs_can_be_met_too():
    device = Device([16, 16], [staircase(16, 4)] * 2)
    lost = [losses(np.random.default_rng(n), 16) for n in range(2)]
    kept = run(device, lost, 0.9, macs=14.0)
    assert kept.sum() <= 14
    assert float(device(kept)) <= 0.9 * float(device(device.sizes))


class Peak(Evaluator):
    """The most that is alive at any of several moments.

    Args:
        sizes: Channels of each group.
        moments: `(moments, groups)` how much a channel takes at each moment.
    """

    maxima = frozenset({"ram"})

    def __init__(self, sizes, moments):
        self.sizes = np.array(sizes)
        self.moments = np.array(moments, float)

    def each(self, kept):
        return np.asarray(kept) @ self.moments.T

    def evaluate(self, kept):
        kept = np.asarray(kept)
        return {
            "ram": self.each(kept).max(axis=-1),
            "params": kept.sum(axis=-1).astype(float),
        }

    def excess(self, kept, budgets):
        found = super().excess(kept, budgets)
        if "ram" in budgets:
            over = np.maximum(self.each(kept) - budgets["ram"], 0.0)
            found["ram"] = over.sum(axis=-1)
        return found


def brute_force(costs, budgets, lost, min_channels):
    """The least loss of all that meets the budgets; infinite if none does."""
    spans = [
        range(floor, size + 1)
        for floor, size in zip(min_channels, costs.sizes, strict=True)
    ]
    kept = np.array(list(itertools.product(*spans)))
    found = costs.evaluate(kept)
    fine = np.all([found[n] <= c for n, c in budgets.items()], axis=0)
    losses = sum(values[kept[:, n]] for n, values in enumerate(lost))
    return float(losses[fine].min(initial=np.inf))


def total(lost, kept):
    return float(sum(v[n] for v, n in zip(lost, kept, strict=True)))


def assert_full(costs, budgets, kept):
    """Nothing fits in any more."""
    for group in np.flatnonzero(kept < costs.sizes):
        for more in range(kept[group] + 1, costs.sizes[group] + 1):
            trial = kept.copy()
            trial[group] = more
            found = costs.evaluate(trial)
            assert any(found[n] > c for n, c in budgets.items())


def test_two_moments_that_are_equally_high():
    # The first group is alive at one moment, the second at another, the third
    # at both but dear to lose: no single channel of the first two lowers the peak.
    costs = Peak([8, 8, 4], [[1, 0, 1], [0, 1, 1]])
    full = costs.evaluate(costs.sizes)["ram"]
    for group in range(2):
        fewer = costs.sizes - np.eye(3, dtype=int)[group]
        assert costs.evaluate(fewer)["ram"] == full
    cheap, dear = np.linspace(0.8, 0, 9), 100 * np.linspace(0.4, 0, 5)
    lost, min_channels = [cheap, cheap, dear], np.array([1, 1, 1])
    for budget in range(6, 12):
        kept = Search(
            costs, {"ram": budget}, lost, min_channels, costs.sizes
        ).run()
        assert costs.evaluate(kept)["ram"] == budget
        best = brute_force(costs, {"ram": budget}, lost, min_channels)
        assert total(lost, kept) == pytest.approx(best)


@st.composite
def peaks(draw):
    sizes = draw(st.lists(st.integers(2, 7), min_size=1, max_size=4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    moments = rng.integers(0, 4, (draw(st.integers(1, 5)), len(sizes)))
    moments[rng.integers(0, len(moments))] += 1
    costs = Peak(sizes, moments)
    min_channels = np.array([rng.integers(1, size + 1) for size in sizes])
    low, high = costs.evaluate(min_channels), costs.evaluate(costs.sizes)
    share = draw(st.floats(0, 1))
    names = draw(st.sampled_from([["ram"], ["ram", "params"], ["params"]]))
    budgets = {n: low[n] + share * (high[n] - low[n]) for n in names}
    lost = [losses(rng, size) for size in sizes]
    return costs, budgets, lost, min_channels


@settings(max_examples=150, deadline=None)
@given(peaks())
def test_what_can_be_reached_is_reached_at_nearly_the_least_loss(problem):
    costs, budgets, lost, min_channels = problem
    kept = Search(costs, budgets, lost, min_channels, costs.sizes).run()
    found = costs.evaluate(kept)
    assert all(found[n] <= c for n, c in budgets.items())
    assert (kept >= min_channels).all() and (kept <= costs.sizes).all()
    assert_full(costs, budgets, kept)
    best = brute_force(costs, budgets, lost, min_channels)
    assert total(lost, kept) <= best + 0.25


def test_a_maximum_without_an_excess_of_its_own_is_met_too():
    # All that is known of it is its value, which no group can lower alone.
    class Plain(Peak):
        maxima = frozenset()
        excess = Evaluator.excess

    costs = Plain([6, 6], [[1, 0], [0, 1]])
    lost = [np.linspace(1, 0, 7)] * 2
    min_channels = np.array([1, 1])
    kept = Search(costs, {"ram": 4.0}, lost, min_channels, costs.sizes).run()
    assert kept.tolist() == [4, 4]
    with pytest.raises(ValueError, match="ram exceeds"):
        Search(costs, {"ram": 0.5}, lost, min_channels, costs.sizes).run()


class Products(Evaluator):
    """A chain of layers: each costs what it reads times what it writes."""

    def __init__(self, sizes):
        self.sizes = np.array(sizes)

    def evaluate(self, kept):
        kept = np.asarray(kept, float)
        padded = np.concatenate(
            [np.full((*kept.shape[:-1], 1), 3.0), kept], axis=-1
        )
        return {
            "macs": (padded[..., :-1] * padded[..., 1:]).sum(axis=-1),
            "params": kept.sum(axis=-1),
        }


def convex(rng, size):
    return np.append(0.0, np.sort(rng.uniform(0.01, 1, size)).cumsum())[::-1]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(2, 9), min_size=1, max_size=3),
    st.integers(0, 999),
    st.floats(0.15, 0.9),
    st.sampled_from([["macs"], ["params"], ["macs", "params"]]),
)
def test_smooth_costs_are_met_at_nearly_the_least_loss(
    sizes, seed, share, names
):
    rng = np.random.default_rng(seed)
    costs = Products(sizes)
    lost = [convex(rng, size) for size in sizes]
    min_channels = np.ones(len(sizes), int)
    low, high = costs.evaluate(min_channels), costs.evaluate(costs.sizes)
    budgets = {n: low[n] + share * (high[n] - low[n]) for n in names}
    kept = Search(costs, budgets, lost, min_channels, costs.sizes).run()
    found = costs.evaluate(kept)
    assert all(found[n] <= c for n, c in budgets.items())
    assert_full(costs, budgets, kept)
    best = brute_force(costs, budgets, lost, min_channels)
    assert total(lost, kept) <= 1.1 * best + 0.1


def test_channels_that_cost_no_loss_go_first():
    costs = Products([8, 8])
    lost = [np.append(np.ones(4), np.zeros(5)), np.linspace(1, 0, 9)]
    kept = Search(
        costs, {"params": 12.0}, lost, np.array([1, 1]), costs.sizes
    ).run()
    assert kept.tolist() == [4, 8]


def test_nothing_goes_where_nothing_has_to():
    costs = Products([5, 4])
    lost = [np.linspace(1, 0, 6), np.linspace(1, 0, 5)]
    budgets = {"macs": 1000.0}
    kept = Search(
        costs, budgets, lost, np.array([1, 1]), np.array([3, 4])
    ).run()
    assert kept.tolist() == [3, 4]
