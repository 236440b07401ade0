from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from kprune.allocation._solver import fits
from kprune.allocation._solver import remove_until


class Net:
    """Random layers between random groups; costs as of convolutions."""

    def __init__(self, sizes, layers, rng):
        self.sizes = np.array(sizes)
        count = len(sizes)
        # -1 stands for an axis that is never pruned.
        self.inputs = rng.integers(-1, count, layers)
        self.outputs = rng.integers(-1, count, layers)
        self.weight = rng.integers(1, 500, layers)

    def __call__(self, kept):
        padded = np.append(kept, 3)
        edges = padded[self.inputs] * padded[self.outputs]
        return {
            "macs": float(edges @ self.weight),
            "params": float(edges.sum()),
        }


@st.composite
def problems(draw):
    sizes = draw(st.lists(st.integers(1, 12), min_size=1, max_size=6))
    layers = draw(st.integers(1, 10))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    net = Net(sizes, layers, rng)
    ties = draw(st.booleans())
    priorities = [
        rng.integers(0, 3, n).astype(float) if ties else rng.random(n)
        for n in sizes
    ]
    alive = [rng.random(n) < 0.8 for n in sizes]
    for lives in alive:
        lives[0] = True
    min_channels = np.array(
        [1 + rng.integers(0, lives.sum()) for lives in alive]
    )
    living = np.array([lives.sum() for lives in alive])
    depth = draw(st.floats(0, 1))
    low, high = net(min_channels), net(living)
    budgets = {
        key: low[key] + depth * (high[key] - low[key])
        for key in draw(
            st.sampled_from([["macs"], ["params"], ["macs", "params"]])
        )
    }
    return net, priorities, alive, min_channels, budgets


def counts(masks):
    return np.array([int(m.sum()) for m in masks])


@settings(max_examples=300)
@given(problems())
def test_safe_side_floors_alive_and_within_one_filter(problem):
    net, priorities, alive, min_channels, budgets = problem
    kept = remove_until(priorities, alive, min_channels, net, budgets)
    count = counts(kept)
    assert fits(net(count), budgets)
    assert (count >= min_channels).all()
    for group, (mask, lives) in enumerate(zip(kept, alive, strict=True)):
        assert not (mask & ~lives).any()
        if count[group] < lives.sum():
            one_more = count.copy()
            one_more[group] += 1
            assert not fits(net(one_more), budgets)


@settings(max_examples=100)
@given(problems())
def test_the_weakest_go_first_inside_each_group(problem):
    net, priorities, alive, min_channels, budgets = problem
    kept = remove_until(priorities, alive, min_channels, net, budgets)
    for mask, lives, priority in zip(kept, alive, priorities, strict=True):
        gone = lives & ~mask
        if gone.any() and mask.any():
            assert priority[gone].max() <= priority[mask].min()


@settings(max_examples=100)
@given(problems())
def test_putting_back_at_most_one_filter_stays_within_the_last_removed(problem):
    net, priorities, alive, min_channels, budgets = problem
    plain = remove_until(
        priorities, alive, min_channels, net, budgets, restore=0
    )
    one = remove_until(priorities, alive, min_channels, net, budgets, restore=1)
    assert fits(net(counts(one)), budgets)
    difference = counts(one) - counts(plain)
    assert set(difference) <= {0, 1}


@settings(max_examples=100)
@given(problems(), st.floats(0, 1))
def test_a_tighter_budget_never_keeps_more_without_restoring(problem, share):
    net, priorities, alive, min_channels, budgets = problem
    floor_costs = net(min_channels)
    tighter = {
        key: floor_costs[key] + share * (value - floor_costs[key])
        for key, value in budgets.items()
    }
    loose = remove_until(
        priorities, alive, min_channels, net, budgets, restore=0
    )
    tight = remove_until(
        priorities, alive, min_channels, net, tighter, restore=0
    )
    assert (counts(tight) <= counts(loose)).all()


def test_no_ceiling_removes_nothing():
    kept = remove_until(
        [np.arange(4.0)], [np.ones(4, bool)], np.array([1]), lambda k: {}, {}
    )
    assert kept[0].all()


def test_unreachable_budgets_are_refused():
    with pytest.raises(
        ValueError, match="below the cost of the fewest channels"
    ):
        remove_until(
            [np.arange(4.0)],
            [np.ones(4, bool)],
            np.array([2]),
            lambda kept: {"macs": float(kept.sum())},
            {"macs": 1.0},
        )


def test_equal_priorities_take_turns_between_groups():
    kept = remove_until(
        [np.zeros(10), np.zeros(20)],
        [np.ones(10, bool), np.ones(20, bool)],
        np.array([1, 1]),
        lambda kept: {"macs": float(kept.sum())},
        {"macs": 15.0},
    )
    assert counts(kept).tolist() == [5, 10]


def test_thirty_thousand_channels_take_few_questions():
    rng = np.random.default_rng(0)
    net = Net(rng.integers(16, 500, 120), 200, rng)
    asked = []

    def evaluate(kept):
        asked.append(kept)
        return net(kept)

    full = net(net.sizes)
    remove_until(
        [rng.random(n) for n in net.sizes],
        [np.ones(n, bool) for n in net.sizes],
        np.ones(len(net.sizes), int),
        evaluate,
        {"macs": 0.5 * full["macs"]},
    )
    assert net.sizes.sum() > 25_000
    assert len(asked) < 1000
