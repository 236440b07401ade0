"""Shapley values and interactions, against all sets counted by hand."""

from __future__ import annotations

import itertools
import math

import keras
import numpy as np
import pytest
from harness import randomise
from keras import layers

import kprune
from kprune.criteria import Shapley
from kprune.criteria._coalitions import Coalitions


def values(variable):
    return keras.ops.convert_to_numpy(variable).astype("float64")


def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(24, 6)).astype("float32")
    return x, rng.normal(size=(24, 2)).astype("float32")


@pytest.fixture(scope="module")
def net():
    """A residual stream of 4 channels that two layers make, and 5 in between."""
    x = inputs = keras.Input((6,))
    x = short = layers.Dense(4, activation="relu", name="stem")(x)
    x = layers.Dense(5, activation="relu", name="inner")(x)
    x = layers.Add()([layers.Dense(4, name="out")(x), short])
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    randomise(model)
    model.compile(loss="mse")
    return model


def loss(model, stem=(1, 1, 1, 1), inner=(1, 1, 1, 1, 1)):
    """The loss in NumPy with 0/1 masks on what is read."""
    x, y = data()
    w = {n: list(map(values, model.get_layer(n).weights)) for n in NAMES}
    short = np.maximum(x @ w["stem"][0] + w["stem"][1], 0) * stem
    z = np.maximum(short @ w["inner"][0] + w["inner"][1], 0) * inner
    z = (z @ w["out"][0] + w["out"][1]) * stem + short
    return np.mean((z @ w["head"][0] + w["head"][1] - y) ** 2)


NAMES = ("stem", "inner", "out", "head")


def subsets(size):
    return [np.array(s) for s in itertools.product((0, 1), repeat=size)]


def exact(value, size):
    """Shapley values by the sum over all sets."""
    found = np.zeros(size)
    for one in subsets(size):
        for i in np.flatnonzero(one == 0):
            more = one.copy()
            more[i] = 1
            rest = math.factorial(size - one.sum() - 1)
            weight = math.factorial(one.sum()) * rest / math.factorial(size)
            found[i] += weight * (value(more) - value(one))
    return found


def test_few_channels_have_their_exact_values(net):
    session = kprune.Session(kprune.wrap(net), data())
    scores = session.score(Shapley(samples=None, permutations=120, steps=None))
    assert set(scores) == {"stem", "inner"}
    for name, found in scores.items():
        wanted = exact(lambda m, n=name: -loss(net, **{n: m}), len(found))
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"permutations": 3}, {"steps": 2}])
def test_values_add_up_to_what_the_group_is_worth(net, options):
    session = kprune.Session(kprune.wrap(net), data())
    before = session.snapshot()
    scores = session.score(Shapley(samples=None, **options))
    for name, found in scores.items():
        none = np.zeros(len(found))
        worth = loss(net, **{name: none}) - loss(net)
        assert found.sum() == pytest.approx(worth, rel=1e-4)
    assert not before.differs(session.masked)


def test_channels_that_are_gone_take_no_part(net):
    session = kprune.Session(kprune.wrap(net), data())
    mask = np.array([1, 0, 1, 1, 0])
    session.remove({"inner": mask})
    found = session.score(Shapley(samples=None))["inner"]
    wanted = exact(lambda m: -loss(net, inner=np.insert(m, (1, 3), 0)), 3)
    np.testing.assert_allclose(found[mask > 0], wanted, rtol=1e-4, atol=1e-5)
    assert (found[mask == 0] == 0).all()


def test_twins_share_what_either_could_do_alone():
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(3, "relu"), layers.Dense(2)]
    )
    kernel, bias = model.layers[0].get_weights()
    kernel[:, 1] = kernel[:, 0]
    model.layers[0].set_weights([kernel, bias])
    readers, bias = model.layers[1].get_weights()
    readers[1] = readers[0]
    model.layers[1].set_weights([readers, bias])
    model.compile(loss="mse")
    session = kprune.Session(kprune.wrap(model), data())
    (found,) = session.score(Shapley(samples=None)).values()
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_interactions_are_those_of_numpy(net):
    session = kprune.Session(kprune.wrap(net), data())
    pairs = np.array([[0, 2], [4, 1]])
    contexts = np.zeros((2, 2, 5), dtype=bool)
    contexts[0, :, 1] = contexts[1, 1, [0, 3]] = True

    def value(context, *more):
        mask = context.astype(int)
        mask[list(more)] = 1
        return -loss(net, inner=mask)

    wanted = [
        np.mean(
            [
                value(s, i, j) - value(s, i) - value(s, j) + value(s)
                for s in contexts[n]
            ]
        )
        for n, (i, j) in enumerate(pairs)
    ]
    (group,) = [g for g in session.groups if g.name == "inner"]
    game = Coalitions(session, None)
    found = game.interactions(group, pairs, contexts)
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5)


def test_it_needs_targets_and_a_loss(net):
    with pytest.raises(ValueError, match="Shapley measures the loss"):
        kprune.prune(net, "shapley")
