from __future__ import annotations

import keras
import numpy as np
import pytest
from fitting import dataset
from fitting import loss
from fitting import small_net

import kprune
from kprune import criteria
from kprune.callbacks import PruneCallback
from kprune.criteria import Staged
from kprune.pruning import Policy


def scores(model, criterion):
    return criteria.score_groups(criterion, kprune.trace(model).prunable)


def test_lengths_before_half_of_the_target_and_distances_after():
    model = small_net(6)
    before, after = scores(model, "l2"), scores(model, "fpgm")
    criterion = criteria.get("msvfp")
    for progress, expected in [
        (0, before),
        (0.49, before),
        (0.5, after),
        (1, after),
    ]:
        got = scores(model, criterion.at(progress))
        for name, vector in expected.items():
            np.testing.assert_array_equal(got[name], vector)


def test_other_criteria_stay_themselves_and_switches_can_be_nested():
    l1 = criteria.get("l1")
    assert l1.at(0.9) is l1
    inner = Staged("l1", "fpgm", 0.8)
    outer = Staged("l2", inner, 0.4)
    assert isinstance(outer.at(0.3), criteria.L2)
    assert outer.at(0.6) is inner.before and outer.at(0.9) is inner.after


def test_a_policy_scores_by_what_is_removed_already():
    masked = kprune.wrap(small_net(8))
    session = kprune.Session(masked)
    policy = Policy(session, "msvfp", {"macs": 0.5})
    expected = scores(masked, "l2")["conv3"]
    np.testing.assert_array_equal(policy.score()["conv3"], expected)
    session.remove({"conv1": [1, 1, 1, 1, 1, 0, 0, 0]})
    assert policy.removed()["macs"] > 0.25
    expected = scores(masked, "fpgm")["conv3"]
    assert not np.allclose(expected, scores(masked, "l2")["conv3"])
    np.testing.assert_array_equal(policy.score()["conv3"], expected)


def test_it_switches_in_the_middle_of_training():
    seen = []

    def first(group):
        seen.append("first")
        return criteria.L2().score(group)

    def second(group):
        seen.append("second")
        return criteria.FPGM().score(group)

    masked = kprune.wrap(small_net(8))
    masked.compile(keras.optimizers.SGD(0.0), loss(), run_eagerly=True)
    callback = PruneCallback(
        Staged(first, second, 0.5), {"macs": 0.5}, kprune.Linear(0, 3)
    )
    masked.fit(dataset(48), epochs=4, verbose=0, callbacks=[callback])
    # Two groups; the first two of the rounds begin below half of the target.
    assert seen[:4] == ["first"] * 4 and "first" not in seen[4:]
    assert len(seen) > 4


def test_both_criteria_are_checked_before_anything_runs():
    masked = kprune.wrap(small_net(6))
    with pytest.raises(ValueError, match="Taylor"):
        kprune.prune(masked, Staged("l2", "taylor"))
    with pytest.raises(ValueError, match="share=1"):
        Staged(share=1)
    with pytest.raises(ValueError, match="Unknown criterion 'l3'"):
        Staged("l3")
