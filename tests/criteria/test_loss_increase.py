from __future__ import annotations

import keras
import numpy as np
import pytest
from fitting import arrays
from fitting import loss
from fitting import small_net
from harness import randomise

import kprune
from kprune.criteria import LossIncrease
from kprune.data.source import Source


@pytest.fixture
def masked():
    model = small_net(5)
    randomise(model)
    jit = keras.config.backend() == "jax"  # elsewhere slow to compile
    model.compile("sgd", loss(), jit_compile=jit)
    return kprune.wrap(model)


def measure(model, data, criterion, alive=None):
    return kprune.Session(model, data).score(criterion, alive)


def evaluated(model, x, y):
    """The loss of the compact model, by plain Keras."""
    logits = kprune.rebuild(model)(x, training=False)
    return float(keras.ops.convert_to_numpy(loss()(y, logits)))


def test_scores_are_the_rise_of_the_compact_models_loss(masked):
    x, y = arrays(20)
    kprune.set_masks(masked, {"conv3": [1, 0, 1, 1, 1]})
    before = evaluated(masked, x, y)
    alive = kprune.masks(masked)
    result = measure(masked, (x, y), LossIncrease(), alive)
    for name, mask in alive.items():
        for channel in np.flatnonzero(mask):
            trial = mask.copy()
            trial[channel] = 0
            kprune.set_masks(masked, {name: trial})
            rise = evaluated(masked, x, y) - before
            assert result[name][channel] == pytest.approx(rise, abs=2e-6)
            kprune.set_masks(masked, {name: mask})
    assert result["conv3"][1] == 0


def test_a_dead_filter_scores_zero(masked):
    layers = {w.name: w.layer for w in kprune.masking.filter_masks(masked)}
    for variable in layers["conv3"].weights:
        value = np.array(keras.ops.convert_to_numpy(variable))
        value[..., 2] = 0
        variable.assign(value)
    result = measure(masked, arrays(20), LossIncrease())
    assert result["conv3"][2] == pytest.approx(0, abs=1e-7)
    assert np.sort(np.abs(result["conv3"]))[1] > 1e-5


def test_only_the_lowest_ranked_are_measured_and_go_first(masked):
    x, y = arrays(20)
    everything = measure(masked, (x, y), LossIncrease())
    few = measure(masked, (x, y), LossIncrease(only="l2", share=0.4))
    ranks = measure(masked, (x, y), "l2")
    top = max(
        few[name][np.argsort(ranks[name])[:2]].max()
        for name in ("conv1", "conv3")
    )
    for name in ("conv1", "conv3"):
        order = np.argsort(ranks[name])
        np.testing.assert_allclose(
            few[name][order[:2]], everything[name][order[:2]], atol=1e-6
        )
        rest = few[name][order[2:]]
        assert (rest > top).all() and (np.diff(rest) > 0).all()


def test_measuring_fewer_takes_fewer_passes(masked, monkeypatch):
    calls = []
    session = kprune.Session(masked, arrays(20))
    trial = session.trial
    monkeypatch.setattr(
        session, "trial", lambda masks: calls.append(masks) or trial(masks)
    )
    session.score(LossIncrease(only="l2", share=0.4))
    assert sorted(len(masks) for masks in calls) == [0, 1, 1, 1, 1]


def test_each_round_draws_new_samples_and_a_seed_repeats_them(masked):
    data = arrays(40)
    first, second = LossIncrease(samples=5), LossIncrease(samples=5)
    a = [measure(masked, data, first)["conv3"] for _ in range(2)]
    b = [measure(masked, data, second)["conv3"] for _ in range(2)]
    other = measure(masked, data, LossIncrease(samples=5, seed=1))["conv3"]
    np.testing.assert_array_equal(a, b)
    assert not np.allclose(a[0], a[1]) and not np.allclose(a[0], other)


def test_the_last_channel_of_a_group_is_not_tried(masked):
    kprune.set_masks(masked, {"conv3": [0, 0, 0, 1, 0]})
    result = measure(masked, arrays(20), LossIncrease(), kprune.masks(masked))
    assert result["conv3"][3] >= result["conv1"].max()


def test_increases_can_be_taken_per_mac(masked):
    data = arrays(20)
    plain = measure(masked, data, LossIncrease())
    per_mac = measure(masked, data, LossIncrease(per_mac=True))
    full = kprune.cost(masked).macs
    for name, rises in plain.items():
        kprune.set_masks(masked, {name: [0, 1, 1, 1, 1]})
        saved = 1 - kprune.cost(masked).macs / full
        kprune.set_masks(masked, {name: [1] * 5})
        expected = np.where(rises > 0, rises / saved, rises * saved)
        np.testing.assert_allclose(
            per_mac[name], expected, rtol=0.01, atol=1e-6
        )


def test_rounds_remove_the_smallest_and_measure_again():
    """Greedy removal: one channel at a time equals doing so by hand."""
    x = inputs = keras.Input((6,))
    for name in ("one", "two"):  # all channels cost about the same
        x = keras.layers.Dense(6, activation="relu", name=name)(x)
    model = keras.Model(inputs, keras.layers.Dense(6)(x))
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=w.shape) for w in model.weights])
    model.compile("sgd", loss(), run_eagerly=True)
    data = rng.normal(size=(20, 6)).astype("float32"), rng.integers(0, 6, 20)
    masked = kprune.wrap(model)
    full = kprune.cost(masked).params
    for _ in range(4):
        masks = kprune.masks(masked)
        scores = measure(masked, data, LossIncrease(), masks)
        _, name, channel = min(
            (scores[name][c], name, c)
            for name, mask in masks.items()
            for c in np.flatnonzero(mask)
        )
        masks[name][channel] = 0
        kprune.set_masks(masked, masks)
    share = 1 - kprune.cost(masked).params / full
    allocation = kprune.allocation.Global("none", max_share=1.0)
    several = kprune.allocation.Rounds(10, allocation)
    result = kprune.prune(
        model, LossIncrease(), {"params": share}, several, data
    )
    for name, mask in kprune.masks(masked).items():
        np.testing.assert_array_equal(kprune.masks(result)[name], mask)
    once = kprune.prune(
        model, LossIncrease(), {"params": share}, allocation, data
    )
    assert any(
        (mask != kprune.masks(result)[name]).any()
        for name, mask in kprune.masks(once).items()
    )


def test_the_probe_follows_the_compiled_loss(masked):
    x, y = arrays(20)
    # A target that either loss can read.
    y = np.eye(3)[y]
    masked.compile(
        "sgd",
        keras.losses.CategoricalCrossentropy(from_logits=True),
        run_eagerly=True,
    )
    session = kprune.Session(masked, (x, y))
    first = session.score("loss_increase")["conv3"]
    masked.compile("sgd", "mse", run_eagerly=True)
    second = session.score(LossIncrease())["conv3"]
    np.testing.assert_allclose(
        second,
        measure(masked, (x, y), LossIncrease())["conv3"],
        rtol=1e-4,
        atol=1e-6,
    )
    assert not np.allclose(first, second)


@pytest.mark.parametrize(
    "options, message",
    [({"share": 0}, "share=0"), ({"samples": 0}, "samples=0")],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LossIncrease(**options)


def test_it_says_that_it_needs_data_and_a_loss():
    model = small_net(5)
    with pytest.raises(ValueError, match="LossIncrease measures the loss on"):
        kprune.prune(model, "loss_increase")
    with pytest.raises(ValueError, match="not compiled"):
        kprune.prune(model, "loss_increase", data=arrays(8))


def stream(x, y):
    yield x[:7], y[:7]
    yield x[7:], y[7:]


@pytest.mark.parametrize("wrap", [lambda x, y: (x, y), stream])
def test_random_draws_pair_inputs_with_their_targets(wrap):
    x = np.arange(20.0)[:, None]
    source = Source(wrap(x, np.arange(20)))
    draws = []
    for seed in (0, 0, 1):
        ((got, target, weight),) = source.sample(8, seed).batches()
        assert weight is None and len(np.unique(target)) == 8
        np.testing.assert_array_equal(got[:, 0], target)
        draws.append(target.tolist())
    assert draws[0] == draws[1] != draws[2]
    ((_, target, _),) = source.sample(99).batches()
    assert sorted(target) == list(range(20))


def test_samples_of_different_shapes_cannot_be_drawn():
    parts = [(np.zeros((2, 3)), np.zeros(2)), (np.zeros((2, 4)), np.zeros(2))]
    with pytest.raises(ValueError, match="pad them"):
        Source(iter(parts)).sample(2)
