"""The default of kprune as a recipe."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from fitting import arrays
from fitting import loss
from fitting import small_net

import kprune
from kprune.callbacks import PruneCallback
from kprune.graph.values import read

REDUCE = {"macs": 0.4}


def weights_after(callbacks, masked, rate=0.0):
    """Trains for two epochs, at a rate of 0 by default, so that only pruning acts."""
    masked.compile(keras.optimizers.SGD(rate), loss())
    masked.fit(*arrays(64), epochs=2, callbacks=callbacks, verbose=0)
    return [read(w) for w in kprune.rebuild(masked).trainable_variables]


def by_recipe(model, **options):
    r = kprune.recipe("refit", REDUCE, data=arrays(64), epochs=2, **options)
    return weights_after(r.callbacks, r.prepare(model))


def same(these, those):
    return len(these) == len(those) and all(
        a.shape == b.shape and np.allclose(a, b, rtol=1e-5, atol=1e-6)
        for a, b in zip(these, those, strict=True)
    )


def test_it_is_what_prune_does_with_samples():
    model = small_net(8)
    masked = kprune.prune(model, reduce=REDUCE, data=arrays(64)[0])
    expected = [read(w) for w in kprune.rebuild(masked).trainable_variables]
    assert same(by_recipe(model), expected)
    prune = PruneCallback(
        reduce=REDUCE, schedule="one_shot", data=arrays(64)[0]
    )
    assert same(weights_after([prune], kprune.wrap(model)), expected)


def test_without_repair_the_remaining_weights_are_the_original_ones():
    model = small_net(8)
    kernels = [read(v) for v in model.trainable_variables]
    masked = kprune.wrap(model)
    r = kprune.recipe("refit", REDUCE, data=arrays(64), epochs=2, repair=None)
    weights_after(r.callbacks, r.prepare(masked))
    for before, after in zip(kernels, masked.trainable_variables, strict=True):
        gone = read(after) == 0
        np.testing.assert_array_equal(read(after)[~gone], before[~gone])
    assert not same(by_recipe(model), by_recipe(model, repair=None))


def test_recover_comes_after_the_repair():
    seen = []

    def look(session, before):
        seen.append(
            [
                read(w)
                for w in kprune.rebuild(session.masked).trainable_variables
            ]
        )

    model = small_net(8)
    after = by_recipe(model, recover=look)
    assert len(seen) == 1
    assert same(seen[0], after)
    assert same(after, by_recipe(model))


def test_it_needs_samples():
    with pytest.raises(ValueError, match=r"Recipe 'refit' lacks data"):
        kprune.recipe("refit", REDUCE, epochs=2)
