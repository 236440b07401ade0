"""Widths that meet a latency at the least loss."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from kprune.latency.layout import Placed
from kprune.latency.layout import Width
from kprune.latency.search import SLOWER
from kprune.latency.search import Search


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

    def costs(self, kept):
        return {"latency": self(kept), "macs": np.asarray(kept).sum(axis=-1)}


def staircase(size, step, dearer=1.0):
    widths = np.arange(size + 1)
    filled = widths % step == 0
    return np.ceil(widths / step) * np.where(filled, 1.0, dearer)


def losses(rng, size):
    worth = np.sort(rng.uniform(0.1, 1.0, size))
    kept = worth[::-1].cumsum()
    return np.concatenate([[np.inf], -np.log(kept / kept[-1])])


def run(device, lost, share, floors=None, **ceilings):
    floors = np.ones(len(device.sizes), int) if floors is None else floors
    full = float(device(device.sizes))
    search = Search(
        device,
        device.costs,
        {"latency": share * full, **ceilings},
        lost,
        floors,
    )
    return search.run(device.sizes)


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
    ceiling = share * float(device(device.sizes))
    every = itertools.product(*(range(1, size + 1) for size in sizes))
    best = min(
        sum(values[n] for values, n in zip(lost, counts, strict=True))
        for counts in every
        if float(device(np.array(counts))) <= ceiling
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
