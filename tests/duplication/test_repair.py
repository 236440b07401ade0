"""Repairs of models with copies, against those of the pruned model."""

from __future__ import annotations

import numpy as np
import pytest
from fitting import arrays
from fitting import small_net
from harness import difference
from harness import outputs
from harness import randomise

import kprune
from kprune.duplication import Copies
from kprune.duplication import Split
from kprune.recovery import Mimic

X, _ = arrays(64)
HALF = {"macs": 0.5}


def original():
    model = small_net(8)
    randomise(model)
    return model


def duplicated(model, recover, copies=None, reduce=HALF):
    return kprune.duplicate(
        model, "l1", reduce, "uniform", X, copies, recover=recover
    )


def error(model, other):
    return float(np.mean((outputs(model, X)[0] - outputs(other, X)[0]) ** 2))


@pytest.mark.parametrize(
    "recover",
    [["reconstruct", "bn"], Mimic(steps=2)],
    ids=["refit", "mimic"],
)
def test_it_is_the_repair_of_the_pruned_model(recover):
    model = original()
    pruned = kprune.prune(model, "l1", HALF, "uniform", X, recover=recover)
    masked = duplicated(model, recover)
    assert difference(outputs(pruned, X), outputs(masked, X)) < 1e-4
    bare = kprune.prune(model, "l1", HALF, "uniform", recover=[])
    assert difference(outputs(bare, X), outputs(masked, X)) > 1e-3
    # Copies are equal still, and nothing is removed.
    assert all(mask.all() for mask in kprune.masks(masked).values())
    small, expected = kprune.rebuild(masked), kprune.rebuild(pruned)
    assert small.count_params() == expected.count_params()
    assert difference(outputs(small, X), outputs(masked, X)) < 1e-5


@pytest.mark.parametrize(
    "copies",
    [
        Copies(consumers="naive"),
        Copies(consumers="absorb"),
        Copies(consumers=Split("random")),
        Copies(noise=0.3),
        Copies(set_size=2),
    ],
    ids=["naive", "absorb", "random", "noise", "removed"],
)
def test_it_helps_whatever_reads_the_copies(copies):
    model = original()
    reduce = {"macs": 0.8} if copies.set_size == 2 else HALF
    plain = duplicated(model, None, copies, reduce)
    masked = duplicated(model, "reconstruct", copies, reduce)
    assert error(masked, model) < 0.8 * error(plain, model)
    for name, mask in kprune.masks(plain).items():
        np.testing.assert_array_equal(kprune.masks(masked)[name], mask)
    if copies.set_size == 2:
        assert any((m == 0).any() for m in kprune.masks(masked).values())
    # Filters that were made to differ still do, and the others do not.
    sizes = [kprune.rebuild(m).count_params() for m in (masked, plain)]
    assert sizes[0] == sizes[1]
