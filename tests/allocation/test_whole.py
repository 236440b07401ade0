"""Widths by costs that only the whole model tells, where estimates are wrong."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from kprune.allocation import _whole
from kprune.allocation._whole import WholeSearch
from kprune.cost.evaluator import Evaluator


class Compiler(Evaluator):
    """Time in steps, and memory at the fullest of several moments.

    Args:
        sizes: Channels of each group.
        steps: Channels that each group is worked on at once.
        moments: `(moments, groups)` what a channel takes at each moment.
        wrong: What the memory is, at the most, of what is expected; less by a
            tenth, and other than that of the neighbours.
    """

    estimated = frozenset({"latency", "ram"})
    stairs = frozenset({"latency"})
    maxima = frozenset({"ram"})

    def __init__(self, sizes, steps, moments, wrong=1.1):
        self.sizes = np.array(sizes)
        self.steps = np.array(steps)
        self.moments = np.array(moments, float)
        self.wrong = wrong
        self.asked = []

    def each(self, kept):
        return np.asarray(kept) @ self.moments.T

    def evaluate(self, kept):
        kept = np.asarray(kept)
        blocks = -(-kept // self.steps)
        found = {
            "latency": 1.0 + (blocks[..., 1:] * blocks[..., :-1]).sum(axis=-1),
            "ram": self.each(kept).max(axis=-1),
            "macs": (kept[..., 1:] * kept[..., :-1]).sum(axis=-1).astype(float),
        }
        if kept.ndim == 1:
            self.asked.append(tuple(kept.tolist()))
            # What the compiler makes of it can be told by no sum.
            part = (
                self.wrong
                - 0.1 * ((kept * [7, 3, 5, 2][: len(kept)]).sum() % 4) / 4
            )
            found["ram"] *= part
            found["latency"] *= 2.2 - part
        return found

    def excess(self, kept, budgets):
        found = super().excess(kept, budgets)
        if "ram" in budgets:
            over = np.maximum(self.each(kept) - budgets["ram"], 0.0)
            found["ram"] = over.sum(axis=-1)
        return found


def losses(rng, size):
    worth = np.sort(rng.uniform(0.1, 1.0, size))
    kept = worth[::-1].cumsum()
    return np.concatenate([[np.inf], -np.log(kept / kept[-1])])


@st.composite
def problems(draw):
    sizes = draw(st.lists(st.integers(3, 9), min_size=2, max_size=4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    steps = rng.choice([1, 2, 4], len(sizes))
    moments = rng.integers(0, 4, (draw(st.integers(1, 4)), len(sizes)))
    moments[rng.integers(0, len(moments))] += 1
    costs = Compiler(sizes, steps, moments)
    names = draw(
        st.sampled_from(
            [["ram"], ["latency"], ["latency", "ram"], ["ram", "macs"]]
        )
    )
    ones = np.ones(len(sizes), int)
    low, high = costs.evaluate(ones), costs.evaluate(costs.sizes)
    share = draw(st.floats(0.1, 1))
    budgets = {
        n: float(low[n] + share * max(0, high[n] - low[n])) for n in names
    }
    return costs, budgets, [losses(rng, size) for size in sizes], ones


def search(costs, budgets, lost, min_channels):
    return WholeSearch(costs, budgets, lost, min_channels, costs.sizes)


def total(lost, kept):
    return float(sum(values[n] for values, n in zip(lost, kept, strict=True)))


def fits(costs, budgets, kept):
    found = costs.evaluate(np.asarray(kept))
    return all(found[n] <= budget for n, budget in budgets.items())


@settings(max_examples=20, deadline=None)
@given(problems())
def test_limits_hold_for_the_whole_model_and_improving_loses_nothing(problem):
    costs, budgets, lost, min_channels = problem
    started = search(*problem)
    started._tell(costs.sizes)
    started.start()
    first = started.best
    kept = search(*problem).run()
    assert fits(costs, budgets, kept)
    assert (kept >= min_channels).all() and (kept <= costs.sizes).all()
    if first is not None:
        assert total(lost, kept) <= total(lost, first)


@settings(max_examples=15, deadline=None)
@given(problems())
def test_near_to_the_best_of_all(problem):
    costs, budgets, lost, _ = problem
    kept = search(*problem).run()
    every = itertools.product(*(range(1, n + 1) for n in costs.sizes))
    best = min(total(lost, k) for k in every if fits(costs, budgets, k))
    assert total(lost, kept) <= best + 0.5


def test_few_questions_and_none_twice():
    costs = Compiler([16, 16, 16], [4, 4, 4], [[2, 1, 0], [0, 1, 2]])
    full = costs.evaluate(costs.sizes)
    rng = np.random.default_rng(0)
    lost = [losses(rng, 16) for _ in range(3)]
    costs.asked.clear()
    budgets = {"latency": 0.5 * full["latency"], "ram": 0.6 * full["ram"]}
    search(costs, budgets, lost, np.ones(3, int)).run()
    assert len(costs.asked) == len(set(costs.asked))
    assert len(costs.asked) <= _whole._CALLS // 2


def test_unpruned_if_it_fits_and_an_error_if_nothing_does():
    costs = Compiler([6, 6], [1, 1], [[1, 1]])
    lost = [np.linspace(1, 0, 7)] * 2
    high = costs.evaluate(costs.sizes)["ram"]
    kept = search(costs, {"ram": high}, lost, np.ones(2, int)).run()
    assert kept.tolist() == [6, 6]
    low = costs.evaluate(np.array([5, 5]))["ram"]
    with pytest.raises(ValueError, match="ram of the whole model"):
        search(costs, {"ram": low / 2}, lost, np.array([5, 5])).run()
