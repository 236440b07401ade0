from __future__ import annotations

import numpy as np
import pytest
import zoo

import kprune
from kprune import allocation
from kprune.allocation import Rounds
from kprune.pruning import Policy


@pytest.mark.parametrize("inner", ["global", "uniform"])
def test_it_equals_pruning_by_hand_in_as_many_rounds(inner):
    model = zoo.projection_resnet()
    got = kprune.prune(model, "fpgm", {"macs": 0.6}, Rounds(4, inner))
    masked = kprune.wrap(model)
    session = kprune.Session(masked)
    policy = Policy(session, "fpgm", {"macs": 0.6}, inner)
    for number in range(1, 5):
        session.remove(policy.choose(number / 4, session.settle()))
    for name, mask in kprune.masks(masked).items():
        np.testing.assert_array_equal(kprune.masks(got)[name], mask)
    once = kprune.prune(model, "fpgm", {"macs": 0.6}, inner)
    differs = [
        name
        for name, mask in kprune.masks(once).items()
        if (mask != kprune.masks(got)[name]).any()
    ]
    assert differs or inner == "uniform"


def test_scores_of_later_rounds_are_of_what_is_left():
    model = zoo.sequential()
    seen = []

    def watched(group):
        kernel = group.producers[0].matrix()
        seen.append((group.name, int((np.abs(kernel).sum(1) > 0).sum())))
        return np.arange(1, group.size + 1)

    masked = kprune.prune(model, watched, {"macs": 0.7}, Rounds(3))
    widths = {}
    for name, width in seen:
        widths.setdefault(name, []).append(width)
    for name, counts in widths.items():
        assert len(counts) == 3 and counts == sorted(counts, reverse=True)
        assert counts[0] == len(kprune.masks(masked)[name])
    assert any(counts[2] < counts[0] for counts in widths.values())


def test_it_does_what_the_inner_allocation_does_with_one_round():
    model = zoo.option_a_resnet()
    got = kprune.masks(kprune.prune(model, "l2", {"params": 0.5}, Rounds(1)))
    expected = kprune.masks(kprune.prune(model, "l2", {"params": 0.5}))
    for name, mask in expected.items():
        np.testing.assert_array_equal(got[name], mask)


def test_what_the_inner_allocation_needs_is_asked_for():
    rounds = Rounds(2, allocation.GreedyLoss(criteria=["l1", "l2"]))
    assert rounds.needs_loss and rounds.criteria == ("l1", "l2")
    assert not Rounds().needs_loss
    with pytest.raises(ValueError, match="Rounds measures the loss"):
        kprune.prune(zoo.sequential(), allocation=rounds)
    with pytest.raises(ValueError, match="Cannot remove"):
        kprune.prune(
            zoo.sequential(), reduce={"macs": 0.999}, allocation="rounds"
        )


def test_errors_say_what_to_do():
    for bad in (0, 2.5, True):
        with pytest.raises(ValueError, match="whole number"):
            Rounds(bad)
    session = kprune.Session(kprune.wrap(zoo.sequential()))
    with pytest.raises(ValueError, match="needs a model"):
        allocation.solve("rounds", allocation.request(session))


def test_the_public_allocate_takes_the_criterion_of_later_rounds():
    model = zoo.sequential()
    session = kprune.Session(kprune.wrap(model))
    asked = session, session.score("fpgm"), {"macs": 0.6}, Rounds(3)
    found = allocation.allocate(*asked, criterion="fpgm")
    wanted = kprune.masks(kprune.prune(model, "fpgm", {"macs": 0.6}, Rounds(3)))
    np.testing.assert_equal(found, wanted)
    for name in ("rounds", "greedy_loss"):
        with pytest.raises(ValueError, match='criterion="taylor"'):
            allocation.allocate(*asked[:3], name)
