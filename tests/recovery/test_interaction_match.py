"""Matching what sets of channels give, on small networks."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from harness import difference
from harness import outputs
from harness import randomise
from models import convolutions

import kprune
from kprune.recovery import InteractionMatch
from kprune.recovery import recover
from kprune.recovery._pupils import unpruned
from kprune.recovery.interaction_match import _Sets


def images(count=96, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 8, 8, 3)).astype("float32")


GONE = {"conv1": [1, 0, 1, 1, 0, 1, 1, 1]}
OTHERS = [{"conv1": [0, 0, 1, 1, 0, 1, 0, 1]}, {"conv2": [0, 1, 1, 0, 1, 1]}]


def matched(**options):
    """A model, the same without two channels, and that before it was matched."""
    keras.utils.set_random_seed(0)
    model = convolutions((8, 6), outputs=4, norms=2, padding="same")
    randomise(model)
    masked = kprune.wrap(model)
    session = kprune.Session(masked, images())
    before = session.snapshot()
    session.remove(GONE)
    start = session.snapshot()
    options = {"steps": 20, "batch_size": 32, **options}
    recover(session, before, [InteractionMatch(**options)])
    return kprune.Session(kprune.wrap(model)), session, start


def errors(original, session, x):
    """Mean squared differences, with all channels and in some coalitions."""
    found = []
    for gone in [{}, *OTHERS]:
        theirs = {
            name: np.maximum(mask, 1 - np.array(GONE.get(name, [1])))
            for name, mask in gone.items()
        }
        with original.trial(theirs), session.trial(gone):
            wanted = outputs(original.masked, x)[0]
            found.append(np.mean((outputs(session.masked, x)[0] - wanted) ** 2))
    return np.array(found)


@pytest.mark.slow
def test_coalitions_come_closer_and_the_result_can_be_rebuilt():
    original, session, unmatched = matched()
    fresh, masked = images(seed=1), session.masked
    after = errors(original, session, fresh)
    statistics = [
        np.array(kprune.graph.values.read(w))
        for w in masked.weights
        if "moving" in w.path
    ]
    weights = session.snapshot()
    unmatched.restore()
    for old, new in zip(
        [w for w in masked.weights if "moving" in w.path],
        statistics,
        strict=True,
    ):
        np.testing.assert_array_equal(kprune.graph.values.read(old), new)
    start = errors(original, session, fresh)
    assert after[0] < 0.8 * start[0]
    assert after[1:].mean() < 0.9 * start[1:].mean()
    weights.restore()
    gone = np.flatnonzero(kprune.masks(masked)["conv1"] == 0)
    assert gone.tolist() == [1, 4]
    kernel = kprune.graph.values.read(masked.get_layer("conv1").layer.kernel)
    assert (kernel[..., gone] == 0).all()
    compact = kprune.rebuild(masked)
    assert difference(outputs(masked, fresh), outputs(compact, fresh)) < 1e-5


def test_the_unpruned_model_keeps_what_was_removed():
    model = convolutions((8, 6), outputs=4)
    session = kprune.Session(kprune.wrap(model))
    session.remove({"conv2": [1, 1, 1, 0, 1, 1]})  # long gone
    before = session.snapshot()
    session.remove(GONE)
    original = kprune.Session(kprune.wrap(unpruned(session.masked, before)))
    sets = _Sets(session, original, before)
    gone = {"conv1": np.array([3, 7]), "conv2": np.array([5])}
    with sets.without(gone):
        ours, theirs = map(kprune.masks, (session.masked, original.masked))
    np.testing.assert_array_equal(ours["conv1"], [1, 0, 1, 0, 0, 1, 1, 0])
    np.testing.assert_array_equal(theirs["conv1"], [1, 1, 1, 0, 1, 1, 1, 0])
    np.testing.assert_array_equal(ours["conv2"], [1, 1, 1, 0, 1, 0])
    np.testing.assert_array_equal(theirs["conv2"], [1, 1, 1, 1, 0])
    rng, sizes = np.random.default_rng(0), set()
    for _ in range(40):
        ((name, channels),) = sets.draw(rng).items()
        assert kprune.masks(session.masked)[name][channels].all()
        sizes.add((name, len(channels)))
    wanted = {("conv1", n) for n in (4, 3, 2, 1)}
    assert sizes == wanted | {("conv2", n) for n in (3, 1)}


def test_what_does_not_help_is_undone():
    _, session, start = matched(learning_rate=1e6, steps=4)
    after = [np.array(w) for w in session.masked.get_weights()]
    start.restore()
    for a, b in zip(after, session.masked.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_too_few_samples():
    with pytest.raises(ValueError, match="InteractionMatch needs at least 16"):
        matched(samples=8)
