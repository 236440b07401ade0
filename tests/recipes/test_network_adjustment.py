"""FLOPs utilisation, and widths that follow from it."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from fitting import arrays
from fitting import loss
from fitting import small_net
from harness import difference
from harness import outputs
from harness import prunable_sizes
from harness import random_inputs
from models import convolutions
from models import dense_layers

import kprune
from kprune.allocation import Request
from kprune.duplication import FUR


def asked(session, reduce):
    masks = session.alive()
    scores = session.score("l1")
    return Request(session.graph, session.cost_model, reduce, scores, masks)


class Known(FUR):
    """Ratios that are not measured."""

    def __init__(self, *ratios, **kwargs):
        super().__init__(**kwargs)
        self.known = ratios

    def measure(self, request, session):
        return dict(zip(request.names, self.known, strict=True))


def compiled(model):
    eager = keras.config.backend() != "jax"
    model.compile(keras.optimizers.SGD(0.05), loss(), run_eagerly=eager)
    return model


def test_the_probe_drops_equal_macs_in_every_layer():
    widths = [4, 12, 6]
    model = convolutions(widths, shape=(12, 12, 3))
    request = asked(kprune.Session(kprune.wrap(model)), {"macs": 0.0})
    sides, before, macs = [10, 8, 6], [3, 4, 12], []
    for side, wide, read in zip(sides, widths, before, strict=True):
        macs.append(side * side * 9 * read * wide)
    macs.append(6 * 3)
    controlled = np.array([macs[n] + macs[n + 1] for n in range(3)])
    dropped = FUR(drop=0.1).rates(request) * controlled
    np.testing.assert_allclose(dropped, 0.1 * controlled.mean(), rtol=1e-9)
    # No rate is above 90 %, and the MACs are equal all the same.
    rates = FUR(drop=0.8).rates(request)
    assert rates.max() == pytest.approx(0.9)
    np.testing.assert_allclose(
        rates * controlled, rates.min() * controlled.max(), rtol=1e-9
    )


def test_the_ratio_is_the_rise_of_the_loss_under_noise():
    model = compiled(dense_layers([6, 5], 4))
    rng = np.random.default_rng(1)
    x = rng.normal(size=(20, 4)).astype("float32")
    y = rng.integers(0, 3, 20)
    session = kprune.Session(kprune.wrap(model), (x, y))
    allocation = FUR(repeats=2, seed=3)
    request = asked(session, {"macs": 0.0})
    found = allocation.measure(request, session)
    weights = model.get_weights()

    def mean_loss():
        return float(keras.ops.convert_to_numpy(loss()(y, model(x))))

    start = mean_loss()
    noise = np.random.default_rng(3)
    readers = {"d0": 2, "d1": 4}
    rates = allocation.rates(request)
    for (name, place), rate in zip(readers.items(), rates, strict=True):
        rises = []
        for _ in range(2):
            noisy = [np.array(w) for w in weights]
            spread = np.sqrt(rate / (1 - rate))
            factors = 1 + spread * noise.normal(size=len(noisy[place]))
            noisy[place] *= factors[:, None]
            model.set_weights(noisy)
            rises.append(mean_loss() - start)
        model.set_weights(weights)
        assert found[name] == pytest.approx(np.mean(rises), abs=1e-5)
    # The masked model is as it was.
    assert difference(outputs(model, x), outputs(session.masked, x)) <= 1e-6


def test_widths_move_to_where_macs_count():
    model = convolutions([16, 16, 16, 16], (12, 12, 3))
    request = asked(kprune.Session(kprune.wrap(model)), {"macs": 0.0})
    ratios = 1.0, 3.0, 2.0, 0.5
    full = request.cost_model.full["macs"]
    for top, ends in ((1, 1), (3, 2)):
        widths = Known(*ratios, top=top).widths(request, None)
        assert widths[1] > 16 > widths[3]
        assert (widths[0] < widths[2]) == (ends == 2)
        macs = request.cost_model.evaluate(widths)["macs"]
        assert 0.97 * full < macs <= full * (1 + 1e-9)
    half = asked(kprune.Session(kprune.wrap(model)), {"macs": 0.5})
    widths = Known(*ratios).widths(half, None)
    assert 0.45 * full < half.cost_model.evaluate(widths)["macs"] <= 0.5 * full
    # As an allocation, it takes the same way down.
    kept = Known(*ratios).solve(half, None)
    pruned = np.array([mask.sum() for mask in kept.values()])
    assert np.abs(pruned - widths).max() <= 2
    assert half.cost_model.evaluate(pruned)["macs"] <= 0.5 * full


def test_the_model_keeps_its_macs_with_other_widths():
    model = compiled(small_net(16))
    r = kprune.recipe(
        "network-adjustment",
        data=arrays(32),
        epochs=2,
        allocation=Known(1.0, 2.0),
    )
    assert r.reduce == {} and len(r.callbacks) == 1
    given = kprune.wrap(model)
    masked = r.prepare(given)
    assert masked.compiled and prunable_sizes(given) == prunable_sizes(model)
    masked.train_on_batch(*arrays(16))
    compact = kprune.rebuild(masked)
    before, after = prunable_sizes(model), prunable_sizes(compact)
    assert after["conv1"] < before["conv1"]
    assert after["conv3"] > before["conv3"]
    # One filter of the residual stream is an eighth of the MACs.
    full = kprune.cost(model).macs
    assert 0.87 * full < kprune.cost(compact).macs <= full
    x = random_inputs(model)
    assert difference(outputs(masked, x), outputs(compact, x)) <= 1e-5


def test_a_target_and_another_allocation():
    model = compiled(small_net(8))
    r = kprune.recipe(
        "network-adjustment",
        {"macs": 0.4},
        arrays(32),
        2,
        allocation=FUR(repeats=1),
    )
    masked = r.prepare(model)
    left = kprune.cost(masked).macs / kprune.cost(model).macs
    assert 0.4 < left <= 0.6
    r = kprune.recipe(
        "network-adjustment", data=arrays(8), epochs=2, allocation="uniform"
    )
    with pytest.raises(TypeError, match="`reduce` must map costs"):
        r.prepare(model)


def test_a_model_without_a_loss():
    r = kprune.recipe("network-adjustment", data=arrays(8), epochs=2)
    with pytest.raises(ValueError, match=r"'network-adjustment'.*compile"):
        r.prepare(small_net(8))
    with pytest.raises(ValueError, match="lacks data"):
        kprune.recipe("network-adjustment", epochs=2)
