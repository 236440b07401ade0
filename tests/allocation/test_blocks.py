from __future__ import annotations

import keras
import numpy as np
import pytest
from fitting import dataset
from fitting import loss
from fitting import small_net
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from models import convolutions

import kprune
from kprune.allocation import Global
from kprune.allocation import Rounds
from kprune.allocation import SimilarityThreshold
from kprune.allocation import Uniform
from kprune.allocation._blocks import remove_blocks_until
from kprune.allocation._manual import Manual
from kprune.allocation._solver import fits
from kprune.allocation._solver import remove_until
from kprune.callbacks import PruneCallback

RANKED = [Global, Uniform, SimilarityThreshold]


class Net:
    """Random layers between random groups; costs as of convolutions."""

    def __init__(self, sizes, layers, rng):
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
    block = draw(st.integers(1, 6))
    sizes = draw(st.lists(st.integers(1, 25), min_size=1, max_size=5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    net = Net(sizes, draw(st.integers(1, 8)), rng)
    ties = draw(st.booleans())
    priorities = [
        rng.integers(0, 3, n).astype(float) if ties else rng.random(n)
        for n in sizes
    ]
    alive = [rng.random(n) < draw(st.sampled_from([0.5, 1.1])) for n in sizes]
    for lives in alive:
        lives[0] = True
    living = np.array([lives.sum() for lives in alive])
    min_channels = np.array([rng.integers(1, n + 1) for n in living])
    rounded = np.minimum(-(-min_channels // block) * block, living)
    depth = draw(st.floats(0, 1))
    low, high = net(rounded), net(living)
    budgets = {
        key: low[key] + depth * (high[key] - low[key])
        for key in draw(
            st.sampled_from([["macs"], ["params"], ["macs", "params"]])
        )
    }
    return block, priorities, alive, min_channels, net, budgets


def counts(masks):
    return np.array([int(m.sum()) for m in masks])


def larger(count, living, block):
    """The next number of channels that a group may keep."""
    return min(living, (count // block + 1) * block)


@settings(max_examples=300)
@given(problems())
def test_multiples_on_the_safe_side_and_within_one_block(problem):
    block, _, alive, min_channels, net, budgets = problem
    kept = remove_blocks_until(*problem)
    count, living = counts(kept), counts(alive)
    assert ((count % block == 0) | (count == living)).all()
    assert (count >= min_channels).all()
    assert fits(net(count), budgets)
    for group, (mask, lives) in enumerate(zip(kept, alive, strict=True)):
        assert not (mask & ~lives).any()
        if count[group] < living[group]:
            more = count.copy()
            more[group] = larger(count[group], living[group], block)
            assert not fits(net(more), budgets)


@settings(max_examples=150)
@given(problems())
def test_the_weakest_go_first_inside_each_group(problem):
    _, priorities, alive, *_ = problem
    kept = remove_blocks_until(*problem)
    for mask, lives, priority in zip(kept, alive, priorities, strict=True):
        gone = lives & ~mask
        if gone.any() and mask.any():
            assert priority[gone].max() <= priority[mask].min()


@settings(max_examples=150)
@given(problems(), st.sampled_from([None, 0, 1]))
def test_blocks_of_one_are_channels(problem, restore):
    _, *rest = problem
    min_channels, net = rest[2], rest[3]
    rest[4] = {
        key: max(budget, net(min_channels)[key])
        for key, budget in rest[4].items()
    }
    np.testing.assert_equal(
        remove_blocks_until(1, *rest, restore), remove_until(*rest, restore)
    )


def literally(block, priorities, alive, min_channels, net, budgets):
    """Kept counts, one block after the other, with nothing clever."""
    living = counts(alive)
    queue = []
    for group, (priority, lives) in enumerate(
        zip(priorities, alive, strict=True)
    ):
        values = sorted(priority[lives])
        count = len(values)
        while count > 0:
            fewer = (count - 1) // block * block
            if fewer < min(
                -(-min_channels[group] // block) * block, living[group]
            ):
                break
            first = len(values) - count
            mean = np.mean(values[first : first + count - fewer])
            queue.append((mean, group, count, fewer))
            count = fewer
    queue.sort()
    kept, gone = living.copy(), []
    for _, group, count, fewer in queue:
        if fits(net(kept), budgets):
            break
        kept[group] = fewer
        gone.append((group, count, fewer))
    for group, count, fewer in reversed(gone):
        trial = kept.copy()
        trial[group] = count
        if kept[group] == fewer and fits(net(trial), budgets):
            kept = trial
    return kept


@settings(max_examples=300)
@given(problems())
def test_as_one_would_do_it_by_hand(problem):
    # Priorities of their own, so that no order is a matter of taste.
    block, priorities, *rest = problem
    rng = np.random.default_rng(len(priorities))
    priorities = [p + rng.random(len(p)) for p in priorities]
    kept = remove_blocks_until(block, priorities, *rest)
    assert counts(kept).tolist() == list(literally(block, priorities, *rest))


# -- allocations -----------------------------------------------------------


def network(*widths):
    return convolutions(widths, outputs=5, padding="same")


def kept_of(masked):
    return [int(m.sum()) for m in kprune.masks(masked).values()]


@pytest.fixture
def masked():
    keras.utils.set_random_seed(0)
    return kprune.wrap(network(32, 20, 40, 6))


@pytest.mark.parametrize("kind", RANKED)
def test_pruned_models_keep_multiples(masked, kind):
    kprune.prune(masked, reduce={"macs": 0.5}, allocation=kind(round_to=8))
    kept = kept_of(masked)
    for count, size in zip(kept, [32, 20, 40, 6], strict=True):
        assert count % 8 == 0 or count == size
    before = kprune.cost(network(32, 20, 40, 6)).macs
    assert kprune.cost(kprune.rebuild(masked)).macs <= 0.5 * before


def test_uniform_takes_the_same_share_up_to_one_block(masked):
    kprune.prune(masked, reduce={"macs": 0.6}, allocation=Uniform(round_to=4))
    shares = np.array(kept_of(masked)) / [32, 20, 40, 6]
    blocks = 4 / np.array([32, 20, 40, 6])
    assert abs(shares[0] - shares[2]) <= blocks[0] + blocks[2]


def test_limits_are_rounded_up(masked):
    allocation = Global(keep_min=9, max_share=0.7, round_to=8)
    kprune.prune(masked, reduce={"macs": 0.5}, allocation=allocation)
    assert (np.array(kept_of(masked)) >= [16, 16, 16, 6]).all()
    with pytest.raises(ValueError, match=r"round_to=8, keep_min=9 and max_sh"):
        kprune.prune(masked, reduce={"macs": 0.9}, allocation=allocation)


def test_what_is_in_reach_depends_on_rounding():
    model = network(12, 12)
    kprune.prune(model, reduce={"macs": 0.8}, allocation=Global())
    with pytest.raises(ValueError, match=r"Cannot remove 80.0% .* round_to=8"):
        kprune.prune(model, reduce={"macs": 0.8}, allocation=Global(round_to=8))


@pytest.mark.parametrize("kind", RANKED)
def test_step_by_step_towards_a_target(masked, kind):
    session = kprune.Session(masked)
    policy = kprune.pruning.Policy(
        session, "l1", {"macs": 0.6}, kind(round_to=8)
    )
    before = [32, 20, 40, 6]
    for fraction in (0.2, 0.5, 0.5, 0.9, 1.0):
        session.remove(policy.choose(fraction))
        now = kept_of(masked)
        for count, last in zip(now, before, strict=True):
            assert count == last or (count < last and count % 8 == 0)
        assert policy.removed()["macs"] >= 0.6 * fraction
        assert policy.met(fraction)
        before = now


def test_groups_pruned_to_an_odd_number_stay_or_become_multiples(masked):
    names = list(kprune.masks(masked))
    kprune.set_masks(masked, {names[2]: np.arange(40) < 37})
    kprune.prune(masked, reduce={"macs": 0.5}, allocation=Global(round_to=16))
    for count, alive in zip(kept_of(masked), [32, 20, 37, 6], strict=True):
        assert count % 16 == 0 or count == alive


def test_inside_other_allocations(masked):
    names = list(kprune.masks(masked))
    manual = Manual({names[1]: 0.3}, Global(round_to=8))
    kprune.prune(masked, reduce={"macs": 0.5}, allocation=manual)
    kept = kept_of(masked)
    assert kept[1] == 14
    assert kept[0] % 8 == kept[2] % 8 == 0
    other = kprune.wrap(network(32, 20, 40, 6))
    kprune.prune(
        other, reduce={"macs": 0.5}, allocation=Rounds(3, Global(round_to=8))
    )
    assert all(n % 8 == 0 or n in (20, 6) for n in kept_of(other))


def test_in_a_callback_that_goes_in_steps():
    masked = kprune.wrap(small_net(20))
    masked.compile("sgd", loss())
    prune = PruneCallback(
        reduce={"macs": 0.5},
        schedule=kprune.Linear(begin=0, end=3),
        allocation=Global(round_to=8),
    )
    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(kept_of(masked))
    )
    history = masked.fit(
        dataset(), epochs=4, verbose=0, callbacks=[prune, watch]
    ).history
    assert len({tuple(kept) for kept in seen}) > 1
    for kept in seen:
        assert all(n % 8 == 0 or n == 20 for n in kept)
    assert history["pruned_macs"][-1] >= 0.5


@pytest.mark.parametrize("kind", RANKED)
@pytest.mark.parametrize("wrong", [0, -8, 8.0, True, "8", None])
def test_wrong_numbers_are_refused(kind, wrong):
    with pytest.raises(ValueError, match=f"{kind.__name__} needs.*`round_to`"):
        kind(round_to=wrong)


def test_measured_steps_and_rounding_do_not_mix():
    with pytest.raises(ValueError, match="Leave `round_to` out of Global"):
        kprune.latency.Latency(allocation=Global(round_to=8))
    kprune.latency.Latency(allocation=Global(round_to=1))
