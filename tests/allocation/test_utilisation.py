"""Shares of groups by how their channels work together."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from models import dense_layers

import kprune
from kprune import allocation
from kprune.allocation import Utilisation
from kprune.pruning import Policy

SCORES = kprune.criteria.Shapley(permutations=2)


@pytest.fixture
def session():
    x = inputs = keras.Input((6,))
    x = keras.layers.Dense(8, name="linear")(x)
    x = keras.layers.Dense(8, name="bent")(x)
    x = keras.ops.sigmoid(4.0 * x)
    model = keras.Model(inputs, keras.layers.Dense(1, name="head")(x))
    model.compile(loss="mse")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 6)).astype("float32")
    return kprune.Session(kprune.wrap(model), (x, np.ones((64, 1))))


def test_the_weaker_group_loses_more(session, monkeypatch):
    policy = Policy(session, SCORES, {"params": 0.4}, Utilisation())
    policy.check()
    strengths = {"linear": 0.2, "bent": 3.0}
    monkeypatch.setattr(
        Utilisation,
        "strengths",
        lambda self, request, session: np.array(
            [strengths[name] for name in request.names]
        ),
    )
    masks = policy.choose()
    gone = {name: int((m == 0).sum()) for name, m in masks.items()}
    assert gone["linear"] == pytest.approx(2 * gone["bent"], abs=1)
    scores = policy.score()
    for name, mask in masks.items():
        if gone[name]:
            assert scores[name][mask > 0].min() >= scores[name][mask == 0].max()


def test_a_group_without_interactions_has_no_strength():
    """With a loss that is linear in the channels, all of them are 0."""
    model = dense_layers([6, 5], inputs=4, outputs=1, activation=None)
    model.compile(loss=lambda y, p: keras.ops.mean(p - y, axis=-1))
    x = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
    masked = kprune.wrap(model)
    session = kprune.Session(masked, (x, np.zeros((32, 1))))
    policy = Policy(session, SCORES, {"macs": 0.3}, Utilisation(pairs=3))
    request = policy.request(scores=policy.score())
    found = policy.allocation.strengths(request, session)
    np.testing.assert_allclose(found, 0, atol=1e-4)
    model.compile(loss="mse")
    session = kprune.Session(kprune.wrap(model), (x, np.ones((32, 1))))
    policy = Policy(session, SCORES, {"macs": 0.3}, Utilisation(pairs=3))
    request = policy.request(scores=policy.score())
    assert (policy.allocation.strengths(request, session) > 1e-3).all()


def test_the_same_seed_gives_the_same(session):
    found = []
    for seed in (0, 0, 1):
        parts = kprune.criteria.L1(), {"macs": 0.5}, Utilisation(2, seed=seed)
        policy = Policy(session, *parts)
        request = policy.request(scores=policy.score())
        found.append(policy.allocation.strengths(request, session))
    np.testing.assert_array_equal(found[0], found[1])
    assert (found[0] != found[2]).all()


def test_it_needs_a_model_and_targets(session):
    plain = kprune.Session(session.masked)
    with pytest.raises(ValueError, match="needs a model"):
        allocation.solve("utilisation", allocation.request(plain))
    with pytest.raises(ValueError, match="Utilisation measures the loss"):
        kprune.prune(kprune.rebuild(session.masked), "l1", None, "utilisation")
