"""Knockoffs, and what is learned of channels against them."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from fitting import arrays
from fitting import dataset
from fitting import loss
from fitting import small_net
from harness import difference
from harness import outputs
from harness import randomise
from keras import layers

import kprune
from kprune.criteria import Knockoff
from kprune.session.criteria.knockoff import Mixture
from kprune.session.criteria.knockoff import knockoffs

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(3, 8, 6, 2), (3, 7, 5, 2), (3, 9, 2)])
def test_knockoffs_keep_amplitudes_and_lose_phases(shape):
    x = RNG.normal(1.0, 2.0, size=shape).astype("float32")
    y = knockoffs(x, np.random.default_rng(1))
    axes = tuple(range(1, x.ndim - 1))
    a, b = np.fft.fftn(x, axes=axes), np.fft.fftn(y, axes=axes)
    np.testing.assert_allclose(np.abs(b), np.abs(a), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(y.mean(axes), x.mean(axes), atol=1e-5)
    # Colours go together as they did.
    np.testing.assert_allclose(
        b[..., 0] * b[..., 1].conj(), a[..., 0] * a[..., 1].conj(), atol=1e-2
    )
    assert y.dtype == x.dtype
    assert abs(np.corrcoef(x.ravel() - 1, y.ravel() - 1)[0, 1]) < 0.6


@pytest.mark.parametrize("kind", ["float32", "int64"])
def test_inputs_without_positions_are_shuffled(kind):
    x = RNG.normal(size=(50, 4)).astype(kind)
    y = knockoffs(x, np.random.default_rng(0))
    np.testing.assert_array_equal(np.sort(y, axis=0), np.sort(x, axis=0))
    if kind == "float32":
        assert (y != x).any(axis=0).all()
        assert (np.argsort(y[:, 0]) != np.argsort(y[:, 1])).any()


def values(variable):
    return keras.ops.convert_to_numpy(variable).astype("float64")


def residual():
    x = inputs = keras.Input((6,))
    x = short = layers.Dense(4, activation="relu", name="stem")(x)
    x = layers.Dense(5, activation="relu", name="inner")(x)
    x = layers.Add()([layers.Dense(4, name="out")(x), short])
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    randomise(model)
    model.compile(loss="mse")
    return model


def samples():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(24, 6)).astype("float32")
    return x, rng.normal(size=(24, 2)).astype("float32")


def test_a_stream_is_mixed_at_all_layers_that_write_to_it():
    model = residual()
    masked = kprune.wrap(model)
    mixture = Mixture(masked, kprune.trace(masked).prunable)
    kappa = RNG.uniform(size=9).astype("float32")
    mixture.kappa.assign(kappa)
    shares = mixture.kappas()
    assert {n: len(k) for n, k in shares.items()} == {"stem": 4, "inner": 5}
    x, _ = samples()
    false = knockoffs(x, np.random.default_rng(1))

    def dense(name, a, activation=lambda a: a):
        kernel, bias = map(values, model.get_layer(name).weights)
        return activation(a @ kernel + bias)

    def both(name, pair, share, **options):
        real, false = (dense(name, a, **options) for a in pair)
        return share * real + (1 - share) * false, false

    def relu(a):
        return np.maximum(a, 0)

    stem = both("stem", (x, false), shares["stem"], activation=relu)
    inner = both("inner", stem, shares["inner"], activation=relu)
    out = both("out", inner, shares["stem"])
    wanted = dense("head", out[0] + stem[0])
    found = keras.ops.convert_to_numpy(mixture([x, false]))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    mixture.kappa.assign(np.ones(9))
    found = keras.ops.convert_to_numpy(mixture([x, false]))
    np.testing.assert_allclose(found, outputs(model, x)[0], atol=1e-5)


def test_channels_outside_of_the_groups_stay_real():
    inputs = keras.Input((3,))
    joint = keras.layers.Dense(6, name="joint")(inputs)
    head = keras.layers.Dense(2, name="head")(joint[:, :4])
    model = keras.Model(inputs, [head, joint[:, 4:]])
    masked = kprune.wrap(model)
    mixture = Mixture(masked, kprune.trace(masked).prunable)
    (learned,) = mixture.trainable_variables
    assert learned.shape == (4,)
    x, _ = samples()
    x = x[:, :3]
    learned.assign(np.zeros(4))
    found, pinned = mixture([x, knockoffs(x, np.random.default_rng(1))])
    wanted, real = outputs(model, x)
    np.testing.assert_allclose(values(pinned), real, atol=1e-5)
    assert not np.allclose(values(found), wanted, atol=1e-3)


def test_without_search_nothing_is_known():
    session = kprune.Session(kprune.wrap(residual()), samples())
    for scores in session.score(Knockoff(steps=0)).values():
        np.testing.assert_array_equal(scores, 0)


class Seen(Knockoff):
    def kappas(self, groups, session):
        self.seen = super().kappas(groups, session)
        return self.seen


@pytest.fixture(scope="module")
def searched():
    """A net with batch normalisation, before and after a search."""
    keras.utils.set_random_seed(0)
    model = small_net(8)
    randomise(model)
    for name in ("conv2", "conv3"):  # nobody reads channel 2 of the stream
        kernel = values(model.get_layer(name).kernel)
        kernel[:, :, 2] = 0.0
        model.get_layer(name).kernel.assign(kernel)
    model.compile(keras.optimizers.SGD(0.1), loss())
    masked = kprune.wrap(model)
    session = kprune.Session(masked, arrays(32))
    before = [np.array(w) for w in masked.get_weights()]
    flags = [layer.trainable for layer in masked.layers]
    criterion = Seen(steps=6, learning_rate=0.02)
    scores = session.score(criterion)
    after = masked.get_weights()
    assert flags == [layer.trainable for layer in masked.layers]
    return session, criterion.seen, scores, before, after


def test_the_search_changes_nothing_else(searched):
    _, _, _, before, after = searched
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)


def test_scores_are_differences_times_scales(searched):
    session, kappas, scores, _, _ = searched
    assert set(kappas) == {group.name for group in session.groups}
    gamma = np.abs(values(session.masked.get_layer("norm1").layer.gamma))
    np.testing.assert_allclose(
        scores["conv1"], gamma * (2 * kappas["conv1"] - 1), rtol=1e-5
    )
    for name, shares in kappas.items():
        assert (shares >= 0).all() and (shares <= 1).all()
        np.testing.assert_allclose(np.sign(scores[name]), np.sign(shares - 0.5))
    # What nobody reads has no gradient.
    assert kappas["conv1"][2] == 0.5
    assert (np.delete(kappas["conv1"], 2) != 0.5).all()


def test_channels_that_carry_the_content_are_found():
    """One feature tells the class; shuffled, it tells nothing."""
    x = np.random.default_rng(0).normal(size=(256, 8)).astype("float32")
    y = (x[:, :1] > 0).astype("float32")
    dense = layers.Dense(4, use_bias=False, name="dense")
    model = keras.Sequential(
        [keras.Input((8,)), dense, layers.Dense(1, name="head")]
    )
    kernel = np.zeros((8, 4))
    kernel[0, 0] = kernel[5, 1] = kernel[6, 2] = kernel[7, 3] = 1.0
    dense.set_weights([kernel])
    model.layers[-1].set_weights([np.ones((4, 1)), np.zeros(1)])
    model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
    session = kprune.Session(kprune.wrap(model), (x, y))
    (scores,) = session.score(Knockoff(40, 0.02)).values()
    assert scores.argmax() == 0
    assert scores[0] > 0.5 > 0.3 > scores[1:].max()


def test_from_end_to_end():
    model = small_net(8)
    eager = keras.config.backend() != "jax"
    model.compile(keras.optimizers.SGD(0.05), loss(), run_eagerly=eager)
    recipe = kprune.recipe(
        "scop", {"macs": 0.4}, arrays(32), 2, criterion=Knockoff(steps=2)
    )
    masked = recipe.prepare(model)
    masked.fit(dataset(), epochs=2, callbacks=recipe.callbacks, verbose=0)
    compact = kprune.rebuild(masked)
    saved = 1 - kprune.cost(compact).macs / kprune.cost(model).macs
    assert 0.4 <= saved < 0.6
    x, _ = arrays(8)
    assert difference(outputs(masked, x), outputs(compact, x)) <= 1e-5
    with pytest.raises(ValueError, match="'scop' lacks data"):
        kprune.recipe("scop", epochs=3)
