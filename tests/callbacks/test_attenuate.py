"""Weak filters fade, may return, and are removed at the end."""

from __future__ import annotations

import logging

import keras
import numpy as np
import pytest
from fitting import arrays
from fitting import dataset
from fitting import loss
from fitting import small_net
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from keras import layers
from models import convolutions

import kprune
from kprune.callbacks import AttenuateCallback
from kprune.callbacks import PruneCallback
from kprune.callbacks import SoftPruneCallback
from kprune.callbacks._scaling import Scaler
from kprune.factors import Constant
from kprune.factors import Linear
from kprune.masking import attenuation
from kprune.masking import set_attenuation

Always = kprune.schedules.Constant


def chain(width=8):
    return convolutions((width, width), (8, 8, 1), norms=2, bias=True)


def compiled(build=chain, optimizer=None):
    keras.utils.set_random_seed(3)
    model = build()
    for layer in model.layers:
        # A filter of 0 gets a gradient if its constant passes the ReLU.
        if isinstance(layer, layers.BatchNormalization):
            layer.beta.assign(np.linspace(0.1, 0.5, layer.beta.shape[0]))
    masked = kprune.wrap(model)
    optimizer = optimizer or keras.optimizers.SGD(0.05)
    masked.compile(optimizer, loss(), jit_compile=False)
    return masked


def fit(masked, *callbacks, epochs=4, **options):
    options = {"verbose": 0, "shuffle": False, **options}
    return masked.fit(
        dataset(), epochs=epochs, callbacks=[*callbacks], **options
    ).history


def weights(model):
    """The layers' own weights by path, as copies, without masks and records."""
    wrappers = [kprune.FilterMask, keras.Model]
    return {
        f"{layer.name}/{w.name}": np.array(keras.ops.convert_to_numpy(w))
        for layer in model._flatten_layers()
        if not isinstance(layer, tuple(wrappers))
        for w in layer.weights
    }


def values(variable):
    return np.array(keras.ops.convert_to_numpy(variable))


class Snapshots(keras.callbacks.Callback):
    """The weights at the end of each epoch."""

    def __init__(self):
        super().__init__()
        self.taken = []

    def on_epoch_end(self, epoch, logs=None):
        self.taken.append(weights(self.model))


def scripted(rows, group="conv1"):
    """A criterion that ranks the filters of a group as told, call by call."""
    calls = iter(rows)

    def criterion(g):
        if g.name == group:
            return np.array(next(calls), dtype=float)
        return np.ones(g.size)

    return criterion


# -- what it equals ------------------------------------------------------------


def sfp_by_hand(model, counts, epochs):
    """Soft filter pruning in plain Keras; yields the weights of each epoch."""
    x, y = arrays()

    def zero():
        gone = {}
        for name, count in counts.items():
            layer = model.get_layer(name)
            kernel, bias = (values(w) for w in layer.weights)
            norms = np.sqrt((kernel**2).sum((0, 1, 2)))
            gone[name] = np.argsort(norms, kind="stable")[:count]
            kernel[..., gone[name]], bias[gone[name]] = 0, 0
            layer.set_weights([kernel, bias])
        return gone

    for _ in range(epochs):
        zero()
        for start in range(0, len(x), 16):
            part = slice(start, start + 16)
            model.train_on_batch(x[part], y[part])
        yield weights(model)
    yield zero()


@pytest.mark.parametrize(("rate", "momentum"), [(1.0, 0.0), (0.2, 0.9)])
def test_factor_0_is_soft_filter_pruning(rate, momentum):
    def optimizer():
        return keras.optimizers.SGD(rate, momentum=momentum)

    masked = compiled(optimizer=optimizer())
    plain = chain()
    plain.compile(optimizer(), loss(), jit_compile=False)
    copies = weights(masked)
    for layer in plain.layers:
        layer.set_weights(
            [copies[f"{layer.name}/{w.name}"] for w in layer.weights]
        )
    callback = SoftPruneCallback(
        "l2",
        allocation={"conv1": 0.5, "conv2": 0.25},
        schedule=Always(end=5),
        target="kernel",
    )
    taken = Snapshots()
    history = fit(masked, taken, callback, epochs=5)
    *expected, last = sfp_by_hand(plain, {"conv1": 4, "conv2": 2}, 5)
    assert sum(history["returned_filters"]) > 0, "nothing to tell from hard"
    for ours, theirs in zip(taken.taken, expected, strict=True):
        for name, value in theirs.items():
            np.testing.assert_allclose(
                ours[name], value, rtol=1e-4, atol=1e-5, err_msg=name
            )
    for name, gone in last.items():
        dead = np.flatnonzero(kprune.masks(masked)[name] == 0)
        np.testing.assert_array_equal(dead, np.sort(gone))


@pytest.mark.parametrize("target", ["bn", "kernel"])
def test_factor_0_with_a_frozen_set_is_hard_pruning(target):
    """A ReLU passes no gradient at 0, so what is set to 0 once stays there."""

    def bare():
        x = inputs = keras.Input((8, 8, 1))
        for n in (1, 2):
            x = layers.Conv2D(8, 3, activation="relu", name=f"conv{n}")(x)
        x = layers.GlobalAveragePooling2D()(x)
        return keras.Model(inputs, layers.Dense(3, name="head")(x))

    build = chain if target == "bn" else bare
    soft, hard = compiled(build), compiled(build)
    factor = Constant(0.0, tail=4)
    options = {"criterion": "l2", "reduce": {"macs": 0.4}}
    one, two = Snapshots(), Snapshots()
    fit(
        soft,
        one,
        AttenuateCallback(
            schedule=Always(end=3), factor=factor, target=target, **options
        ),
    )
    fit(hard, two, PruneCallback(schedule="one_shot", **options))
    np.testing.assert_equal(kprune.masks(soft), kprune.masks(hard))
    assert any((m == 0).any() for m in kprune.masks(soft).values())
    x, _ = arrays()
    np.testing.assert_allclose(
        soft.predict_on_batch(x), hard.predict_on_batch(x), atol=1e-5
    )
    kept = kprune.masks(soft)["conv2"] > 0
    for ours, theirs in zip(one.taken, two.taken, strict=True):
        np.testing.assert_allclose(
            ours["head/kernel"][kept], theirs["head/kernel"][kept], atol=1e-6
        )


@pytest.mark.parametrize(
    ("target", "optimizer"), [("bn", "adam"), ("kernel", "sgd")]
)
def test_factor_1_does_nothing(target, optimizer):
    plain, ours = compiled(optimizer=optimizer), compiled(optimizer=optimizer)
    one, two = Snapshots(), Snapshots()
    fit(plain, one, epochs=3)
    callback = AttenuateCallback(
        schedule=Always(end=3),
        factor=Constant(1.0, scale_slots=True),
        target=target,
    )
    history = fit(ours, two, callback, epochs=3)
    for before, after in zip(one.taken, two.taken, strict=True):
        np.testing.assert_equal(before, after)
    assert history["weak_filters"] == history["returned_filters"] == [0, 0, 0]
    # The removal at the end is no part of it.
    assert kprune.cost(ours).macs <= 0.5 * kprune.cost(plain).macs


# -- what is scaled ------------------------------------------------------------


def scale(masked, target, weak, factor, slots=False):
    graph = kprune.trace(masked)
    weak = {
        g.name: np.isin(np.arange(g.size), weak.get(g.name, []))
        for g in graph.prunable
    }
    factors = {n: np.where(chosen, factor, 1.0) for n, chosen in weak.items()}
    Scaler(masked, graph, target).scale(factors, slots)


def between(masked, layer, x, training):
    """The output of one inner layer."""
    part = keras.Model(masked.input, masked.get_layer(layer).output)
    return values(part(x, training=training))


def test_batch_statistics_undo_a_scaled_kernel_but_not_a_scaled_norm():
    x, _ = arrays()
    # Far above epsilon, which is what limits the claim.
    x = 100 * x
    masked = compiled()
    # Training moves the statistics that inference reads.
    before = {t: between(masked, "norm1", x, t) for t in (False, True)}
    masked = compiled()
    scale(masked, "kernel", {"conv1": [2, 5]}, 0.5)
    after = {t: between(masked, "norm1", x, t) for t in (False, True)}
    np.testing.assert_allclose(after[True], before[True], rtol=1e-3, atol=1e-3)
    moved = np.abs(after[False] - before[False])
    assert (moved.max((0, 1, 2)) > 0.1).nonzero()[0].tolist() == [2, 5]
    masked = compiled()
    scale(masked, "bn", {"conv1": [2, 5]}, 0.5)
    expected = before[True].copy()
    expected[..., [2, 5]] *= 0.5
    np.testing.assert_allclose(
        between(masked, "norm1", x, True), expected, rtol=1e-4, atol=1e-4
    )


def test_bn_scales_whole_channels_past_and_through_norms():
    """`conv1` passes a norm, `conv2` none, both meet; `depthwise` adds a bias."""
    masked = compiled(small_net)
    for layer in masked._flatten_layers():
        if isinstance(
            layer, layers.BatchNormalization | layers.DepthwiseConv2D
        ):
            for weight in layer.trainable_weights[-1:]:
                weight.assign(np.linspace(-1, 1, 16))
    x, _ = arrays()
    before = between(masked, "depthwise", x, True)
    names = [g.name for g in kprune.trace(masked).prunable]
    scale(masked, "bn", {names[0]: [0, 3, 15]}, 0.25)
    # The skip from conv1 to conv2 is read in between, so only what is scaled
    # is looked at: conv2 reads scaled channels too.
    kernel, bias = (
        weights(masked)["conv2/kernel"],
        weights(masked)["conv2/bias"],
    )
    after = between(masked, "depthwise", x, True)
    scale(masked, "bn", {names[0]: [0, 3, 15]}, 0.0)
    assert (between(masked, "depthwise", x, True)[..., [0, 3, 15]] == 0).all()
    assert np.abs(after - before)[..., [0, 3, 15]].max() > 0.05
    fresh = weights(compiled(small_net))
    for name, scaled in [("conv2/kernel", kernel), ("conv2/bias", bias)]:
        expected = fresh[name].copy()
        expected[..., [0, 3, 15]] *= 0.25
        np.testing.assert_allclose(scaled, expected)
    np.testing.assert_array_equal(
        weights(masked)["conv1/kernel"], fresh["conv1/kernel"]
    )


@pytest.mark.parametrize("target", ["bn", "scale", "kernel"])
def test_all_producers_of_a_residual_stage_fade_together(target):
    def build():
        x = inputs = keras.Input((8, 8, 3))
        shared = layers.Conv2D(6, 3, padding="same", name="shared")
        x = layers.Conv2D(6, 3, padding="same", name="stem")(x)
        x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
        # Called twice: its filters must be scaled once.
        for n in range(2):
            y = layers.BatchNormalization(name=f"norm{n}")(shared(x))
            x = layers.ReLU()(layers.Add()([x, y]))
        x = layers.GlobalAveragePooling2D()(x)
        return keras.Model(inputs, layers.Dense(2, name="head")(x))

    masked = compiled(build)
    before = weights(masked)
    (group,) = kprune.trace(masked).prunable
    scale(masked, target, {group.name: [1, 4]}, 0.5)
    after = weights(masked)
    touched = {
        "bn": ("gamma", "beta"),
        "scale": ("gamma",),
        "kernel": ("kernel", "bias"),
    }[target]
    for name, value in before.items():
        layer, variable = name.split("/")
        expected = value.copy()
        if variable in touched and layer != "head":
            expected[..., [1, 4]] *= 0.5
        np.testing.assert_array_equal(after[name], expected, err_msg=name)


def unscaled():
    x = inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(6, 3, use_bias=False, name="conv")(x)
    x = layers.BatchNormalization(scale=False, name="norm")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(layers.ReLU()(x))
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


@pytest.mark.parametrize("target", ["bn", "scale"])
def test_without_a_scale_channels_fade_where_they_are_read(target):
    masked, (x, _) = compiled(unscaled), arrays()
    before = weights(masked)
    pooled = between(masked, "pool", x, True)
    pooled[:, [0, 4]] *= 0.5
    expected = pooled @ before["head/kernel"] + before["head/bias"]
    scale(masked, target, {"conv": [0, 4]}, 0.5)
    np.testing.assert_allclose(masked(x, training=True), expected, rtol=1e-5)
    np.testing.assert_array_equal(
        weights(masked)["conv/kernel"], before["conv/kernel"]
    )


def squeeze_excite():
    x = inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(6, 3, name="conv")(x)
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Dense(3, activation="relu", name="squeeze")(gate)
    gate = layers.Dense(6, activation="sigmoid", name="excite")(gate)
    x = layers.Multiply()([gate, x])
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


@pytest.mark.parametrize(
    ("target", "touched"),
    [
        ("bn", {"norm/gamma", "norm/beta"}),
        ("scale", {"norm/gamma"}),
        ("kernel", {"conv/kernel", "conv/bias"}),
    ],
)
def test_gates_are_left_alone(target, touched):
    masked = compiled(squeeze_excite)
    for name in ("conv", "excite"):
        masked.get_layer(name).layer.bias.assign(np.ones(6))
    before = weights(masked)
    (name,) = [g.name for g in kprune.trace(masked).prunable if g.size == 6]
    scale(masked, target, {name: [1, 2]}, 0.5)
    after = weights(masked)
    assert {n for n, v in after.items() if (v != before[n]).any()} == touched


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_a_filter_in_front_of_a_depthwise_convolution_can_return(padding):
    """A scale of 0 in front of a normalisation passes it nothing to train with."""

    def build():
        x = inputs = keras.Input((8, 8, 1))
        x = layers.Conv2D(6, 1, use_bias=False, name="conv")(x)
        x = layers.ReLU()(layers.BatchNormalization(name="norm1")(x))
        x = layers.DepthwiseConv2D(3, padding=padding, name="depthwise")(x)
        x = layers.ReLU()(layers.BatchNormalization(name="norm2")(x))
        x = layers.GlobalAveragePooling2D()(x)
        return keras.Model(inputs, layers.Dense(3, name="head")(x))

    masked = compiled(build, keras.optimizers.SGD(0.2))
    before = weights(masked)
    scale(masked, "scale", {"conv": [0, 1]}, 0.0)
    after = weights(masked)
    changed = {n for n, v in after.items() if (v != before[n]).any()}
    assert changed == {"norm2/gamma"}
    fit(masked, epochs=1)
    gamma = np.abs(weights(masked)["norm2/gamma"])
    assert gamma[[0, 1]].min() > 1e-4


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("target", ["bn", "kernel"])
def test_channels_that_pass_two_producers_are_scaled_once(target, residual):
    """Of a convolution with one channel per group, which is depthwise."""

    def build():
        x = inputs = keras.Input((8, 8, 1))
        x = layers.Conv2D(6, 3, name="conv")(x)
        y = layers.Conv2D(6, 3, padding="same", groups=6, name="grouped")(x)
        x = layers.Add()([x, y]) if residual else y
        x = layers.GlobalAveragePooling2D()(layers.ReLU()(x))
        return keras.Model(inputs, layers.Dense(3, name="head")(x))

    masked, (x, _) = compiled(build), arrays()
    masked.get_layer("grouped").layer.bias.assign(np.ones(6))
    expected = between(masked, "grouped", x, True)
    expected[..., [0, 3]] *= 0.5
    (group,) = kprune.trace(masked).prunable
    scale(masked, target, {group.name: [0, 3]}, 0.5)
    after = between(masked, "grouped", x, True)
    np.testing.assert_allclose(after, expected, rtol=1e-5, atol=1e-6)


def test_slots_are_scaled_if_asked_for():
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
    masked = compiled(optimizer=optimizer)
    fit(masked, epochs=1)
    (slot,) = [
        v
        for v in optimizer.variables
        if "conv1" in v.path and tuple(v.shape) == (3, 3, 1, 8)
    ]
    before = values(slot)
    scale(masked, "kernel", {"conv1": [0, 7]}, 0.5)
    np.testing.assert_array_equal(values(slot), before)
    scale(masked, "kernel", {"conv1": [0, 7]}, 0.5, slots=True)
    expected = before.copy()
    expected[..., [0, 7]] *= 0.5
    np.testing.assert_array_equal(values(slot), expected)
    assert np.abs(expected - before).max() > 0


# -- from epoch to epoch -------------------------------------------------------


def test_filters_return_and_are_counted():
    rows = [
        [0, 0, 1, 1, 1, 1, 1, 1],
        [0, 1, 0, 1, 1, 1, 1, 1],
        [0, 1, 1, 0, 1, 1, 1, 1],
        [1, 1, 1, 1, 1, 1, 0, 0],
    ]
    records = []

    class Records(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            records.append(attenuation(self.model)["conv1"])

    callback = AttenuateCallback(
        scripted(rows), allocation={"conv1": 0.25}, schedule=Always(end=3)
    )
    masked = compiled()
    history = fit(masked, callback, Records(), epochs=5)
    assert history["returned_filters"] == [0, 1, 1, 2, 0]
    assert history["weak_filters"] == [2, 2, 2, 0, 0]
    np.testing.assert_array_equal(records[0], [0.5, 0.5, 1, 1, 1, 1, 1, 1])
    np.testing.assert_array_equal(records[1], [0.25, 1, 0.5, 1, 1, 1, 1, 1])
    np.testing.assert_array_equal(records[2], [0.125, 1, 1, 0.5, 1, 1, 1, 1])
    np.testing.assert_array_equal(records[3], np.ones(8))
    np.testing.assert_array_equal(
        kprune.masks(masked)["conv1"], [1, 1, 1, 1, 1, 1, 0, 0]
    )


@pytest.mark.parametrize("target", ["bn", "scale", "kernel"])
def test_scores_do_not_see_attenuation(target):
    """Else what was weak once is weak for good."""
    seen = []

    def criterion(g):
        if g.name == "conv1":
            kernels = [m.matrix() for m in g.producers if m.name == "kernel"]
            gammas = [m.matrix() for m in g.scales if m.name == "gamma"]
            seen.append(np.abs(np.hstack([*kernels, *gammas])).sum(1))
        weak = np.arange(g.size) >= 2 * (len(seen) % 2)
        return weak + np.arange(g.size) / 100

    still = keras.optimizers.SGD(0.0)
    masked = compiled(optimizer=still)
    callback = AttenuateCallback(
        criterion,
        allocation={"conv1": 0.25},
        schedule=Always(end=4),
        target=target,
    )
    fit(masked, callback, epochs=2)
    assert any((r < 1).any() for r in attenuation(masked).values())
    fit(masked, callback, epochs=4, initial_epoch=2)
    for scores in seen[1:4]:
        np.testing.assert_allclose(scores, seen[0], rtol=1e-6)


def test_a_filter_that_returns_has_its_scale_again():
    rows = [[0, 0, 1, 1, 1, 1, 1, 1]] * 3 + [[1, 1, 0, 0, 1, 1, 1, 1]] * 2
    masked = compiled(optimizer=keras.optimizers.SGD(0.0))
    gamma = masked.get_layer("norm1").layer.gamma
    before, seen = values(gamma), []

    class Spy(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(values(gamma) / before)

    callback = AttenuateCallback(
        scripted(rows), allocation={"conv1": 0.25}, schedule=Always(end=4)
    )
    fit(masked, callback, Spy(), epochs=4)
    np.testing.assert_allclose(seen[2][:4], [0.125, 0.125, 1, 1], rtol=1e-6)
    np.testing.assert_allclose(seen[3][:4], [1, 1, 0.5, 0.5], rtol=1e-6)


def test_the_period_is_the_schedules():
    factors_seen = []

    def factor(progress):
        factors_seen.append(progress)
        return 0.5

    callback = AttenuateCallback(
        schedule=Always(begin=1, end=6, every=2), factor=factor
    )
    history = fit(compiled(), callback, epochs=8)
    assert factors_seen == [0.25, 0.5, 0.75]
    weak = history["weak_filters"]
    assert weak[0] == 0 < weak[1]
    assert weak[1] == weak[2]
    assert history["pruned_macs"][:6] == [0.0] * 6
    assert history["pruned_macs"][6] == history["pruned_macs"][7] >= 0.5


@pytest.mark.parametrize("schedule", ["asymptotic", "linear", lambda e: e / 8])
def test_the_weak_share_follows_the_schedule(schedule):
    callback = AttenuateCallback(
        schedule=schedule, allocation={"conv1": 0.75}, factor="cosine"
    )
    weak = fit(compiled(), callback, epochs=9)["weak_filters"]
    rounds = callback.schedule.rounds(9)
    assert rounds == list(range(6))
    wanted = [8 * 0.75 * callback.schedule(e, 9) for e in range(5)]
    assert weak[:5] == [int(count + 0.5) for count in wanted]
    assert weak[5:] == [0] * 4


def test_by_default_two_thirds_of_the_epochs_attenuate():
    history = fit(compiled(), AttenuateCallback(reduce={"macs": 0.6}), epochs=6)
    assert history["pruned_macs"][:3] == [0] * 3
    assert min(history["pruned_macs"][3:]) >= 0.6


def tail_records(epochs=6, tail=4):
    rows = np.random.default_rng(0).permuted(
        np.tile(np.arange(8), (9, 1)), axis=1
    )
    records = []

    class Records(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            records.append(attenuation(self.model)["conv1"])

    callback = AttenuateCallback(
        scripted(rows),
        allocation={"conv1": 0.5},
        schedule=Always(end=epochs),
        factor=Constant(0.9, tail=tail),
    )
    masked = compiled()
    fit(masked, callback, Records(), epochs=epochs)
    return records, kprune.masks(masked)["conv1"]


def test_the_tail_freezes_the_set_and_fades_it_linearly():
    records, mask = tail_records()
    chosen = [frozenset(np.flatnonzero(r < 1)) for r in records]
    # Rounds at epochs 0 to 5 and after the last: the tail is the last four.
    assert len(set(chosen[:4])) > 1
    assert chosen[3] == chosen[4] == chosen[5] == set(np.flatnonzero(mask == 0))
    weak = sorted(chosen[3])
    start = records[3][weak] / 0.75
    for record, left in zip(records[3:], (0.75, 0.5, 0.25), strict=True):
        np.testing.assert_allclose(record[weak], start * left, rtol=1e-5)


@pytest.mark.parametrize("build", [chain, small_net])
def test_removal_at_the_end_of_the_tail_changes_no_output(build):
    x, _ = arrays()
    seen = []

    class Spied(AttenuateCallback):
        def begin(self, session):
            super().begin(session)
            self._remove, session.remove = session.remove, self.removing

        def removing(self, masks):
            removed = sum(int((m == 0).sum()) for m in masks.values())
            # Training moves the statistics that inference reads.
            before = [self.model(x, training=t) for t in (True, False)]
            self._remove(masks)
            after = [self.model(x, training=t) for t in (False, True)][::-1]
            seen.append((removed, before, after))

    callback = Spied(factor=Constant(0.5, tail=3), schedule=Always(end=3))
    fit(compiled(build), callback, epochs=5)
    ((removed, before, after),) = seen
    assert removed > 2
    for one, two in zip(before, after, strict=True):
        np.testing.assert_allclose(values(one), values(two), atol=1e-6)


def test_removal_with_the_target_kernel_drops_the_constants_behind_norms():
    """Why the default target is what it is."""
    masked = compiled()
    masked.get_layer("norm1").layer.beta.assign(np.ones(8))
    x, _ = arrays()
    y = values(masked(x))
    scale(masked, "kernel", {"conv1": [0, 1, 2]}, 0.0)
    faded = values(masked(x))
    mask = np.arange(8) > 2
    kprune.set_masks(masked, {"conv1": mask})
    assert np.abs(values(masked(x)) - faded).max() > 1e-3 * np.abs(y).max()


@pytest.mark.parametrize(
    ("target", "offset", "returns"),
    [
        ("kernel", 0.2, True),
        ("kernel", 0.0, False),
        ("kernel", -0.2, False),
        ("bn", 0.2, False),
        ("scale", 0.2, True),
        ("scale", -0.2, False),
    ],
)
def test_which_filters_can_return_from_0_behind_a_relu(target, offset, returns):
    masked = compiled(optimizer=keras.optimizers.SGD(0.2))
    masked.get_layer("norm1").layer.beta.assign(np.full(8, offset))
    scale(masked, target, {"conv1": [0, 1]}, 0.0)
    before = weights(masked)
    fit(masked, epochs=2)
    after = weights(masked)
    moved = max(
        np.abs(after[n] - before[n])[..., [0, 1]].max()
        for n in ("conv1/kernel", "norm1/gamma", "norm1/beta")
    )
    assert (moved > 1e-3) if returns else (moved == 0)


# -- the end, and other ends ---------------------------------------------------


def test_a_schedule_that_ends_with_training_removes_after_it():
    masked = compiled()
    history = fit(masked, SoftPruneCallback(schedule=Always(end=3)), epochs=3)
    assert history["pruned_macs"] == [0.0] * 3
    assert kprune.cost(masked).macs <= 0.5 * kprune.cost(chain()).macs
    assert all((r == 1).all() for r in attenuation(masked).values())


def test_an_end_that_never_comes_is_warned_of(caplog):
    masked = compiled()
    with caplog.at_level(logging.WARNING, logger="kprune"):
        fit(masked, AttenuateCallback(schedule=Always(end=9)), epochs=2)
    assert "Training ended before the pruning target" in caplog.text
    assert all(mask.all() for mask in kprune.masks(masked).values())


def test_a_second_fit_attenuates_nothing_that_is_left():
    masked = compiled()
    fit(masked, AttenuateCallback(), epochs=3)
    first = kprune.masks(masked)
    history = fit(masked, AttenuateCallback(), epochs=3)
    np.testing.assert_equal(kprune.masks(masked), first)
    assert history["weak_filters"] == [0, 0, 0]


@pytest.mark.parametrize("tail", [0, 3])
def test_training_goes_on_from_a_checkpoint(tail, tmp_path):
    def callback():
        factor = Linear(0.8, 0.2, tail=tail)
        return AttenuateCallback(schedule=Always(end=5), factor=factor)

    path = str(tmp_path / "{epoch}.keras")
    masked = compiled()
    fit(masked, callback(), keras.callbacks.ModelCheckpoint(path), epochs=7)
    loaded = keras.saving.load_model(path.format(epoch=4))
    records = attenuation(loaded)
    assert any((r < 1).any() for r in records.values())
    fit(loaded, callback(), epochs=7, initial_epoch=4)
    np.testing.assert_equal(kprune.masks(loaded), kprune.masks(masked))
    for name, value in weights(masked).items():
        np.testing.assert_allclose(
            weights(loaded)[name], value, rtol=1e-4, atol=1e-6, err_msg=name
        )


def test_a_tail_without_a_record_chooses_afresh():
    """Weights from elsewhere, loaded in the middle of the tail."""
    masked = compiled()
    callback = AttenuateCallback(
        schedule=Always(end=5), factor=Constant(0.5, tail=4)
    )
    history = fit(masked, callback, epochs=6, initial_epoch=4)
    assert history["weak_filters"][0] > 0
    assert history["pruned_macs"][-1] >= 0.5


def test_pruned_before_means_pruned():
    masked = compiled()
    mask = np.arange(8) >= 3
    kprune.set_masks(masked, {"conv1": mask})
    fit(masked, SoftPruneCallback(reduce={"macs": 0.7}), epochs=3)
    assert (kprune.masks(masked)["conv1"] <= mask).all()
    assert kprune.cost(masked).macs <= 0.3 * kprune.cost(chain()).macs


@pytest.mark.parametrize("criterion", ["taylor", "bn_scale", "activation"])
def test_criteria_that_see_norms_work_without_a_warning(criterion, caplog):
    callback = AttenuateCallback(criterion, data=arrays(), factor="exponential")
    with caplog.at_level(logging.WARNING, logger="kprune"):
        history = fit(compiled(), callback, epochs=3)
    assert history["pruned_macs"][-1] >= 0.5
    assert not caplog.records


def test_criteria_that_do_not_notice_are_named(caplog):
    with caplog.at_level(logging.WARNING, logger="kprune"):
        fit(compiled(), AttenuateCallback("l1"), epochs=3)
    (record,) = caplog.records
    assert "Criterion L1" in record.getMessage()
    assert "Folded" in record.getMessage()
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="kprune"):
        fit(compiled(), AttenuateCallback(), epochs=3)
        fit(compiled(), SoftPruneCallback(), epochs=3)
    assert not caplog.records


@pytest.mark.parametrize("kind", [AttenuateCallback, SoftPruneCallback])
def test_kernels_in_front_of_norms_are_warned_of(kind, caplog):
    with caplog.at_level(logging.WARNING, logger="kprune"):
        fit(compiled(), kind(target="kernel"), epochs=2)
    (record,) = caplog.records
    assert "target='scale'" in record.getMessage()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"target": "kernel"}, "target='scale'"),
        ({}, "Criterion Folded does not see"),
        ({"criterion": "taylor", "data": arrays()}, ""),
    ],
)
def test_norms_without_a_scale_are_warned_of(options, said, caplog):
    with caplog.at_level(logging.WARNING, logger="kprune"):
        fit(compiled(unscaled), SoftPruneCallback(**options), epochs=2)
    texts = [r.getMessage() for r in caplog.records if r.name == "kprune"]
    assert len(texts) == bool(said)
    assert all(said in text for text in texts)


def test_soft_pruning_leaves_trained_kernels_in_front_of_norms_alone():
    """A kernel set to 0 returns by the gain of its norm, not by its worth."""
    masked = compiled(optimizer=keras.optimizers.SGD(0.05))
    masked.get_layer("norm1").layer.beta.assign(np.full(8, 0.5))
    fit(masked, epochs=2)
    before = np.abs(weights(masked)["conv1/kernel"]).sum((0, 1, 2))

    def lengths(target):
        copy = keras.models.clone_model(masked)
        copy.set_weights(masked.get_weights())
        copy.compile(keras.optimizers.SGD(0.05), loss(), jit_compile=False)
        schedule = Always(end=4)
        fit(copy, SoftPruneCallback(schedule=schedule, target=target), epochs=3)
        return np.abs(weights(copy)["conv1/kernel"]).sum((0, 1, 2))

    change = np.abs(lengths("scale") - before) / before
    assert change.max() < 0.5
    assert np.abs(lengths("kernel") - before).max() > 0.5 * before.mean()


def test_wrong_arguments_are_said():
    with pytest.raises(ValueError, match="Did you mean 'kernel'"):
        AttenuateCallback(target="kernels")
    with pytest.raises(ValueError, match="Did you mean 'cosine'"):
        AttenuateCallback(factor="cosin")
    callback = AttenuateCallback(
        schedule=Always(end=2), factor=Constant(tail=4)
    )
    with pytest.raises(
        ValueError, match=r"more periods than .* has rounds \(3\)"
    ):
        fit(compiled(), callback)


# -- the record ----------------------------------------------------------------


@pytest.fixture(scope="module")
def residual():
    return kprune.wrap(small_net(6))


@settings(max_examples=15)
@given(data=st.data())
def test_the_record_reads_as_written_and_does_not_act(residual, data):
    x, _ = arrays(4)
    before = values(residual(x))
    shares = st.floats(0, 1, width=32)
    vectors = {
        g.name: np.array(data.draw(st.lists(shares, min_size=6, max_size=6)))
        for g in kprune.trace(residual).prunable
    }
    for vector in vectors.values():
        vector[0] = 1
    set_attenuation(residual, vectors)
    read = attenuation(residual)
    for name, vector in vectors.items():
        np.testing.assert_allclose(read[name], vector, rtol=1e-6)
    np.testing.assert_array_equal(values(residual(x)), before)
    assert all(m.all() for m in kprune.masks(residual).values())


def test_the_record_is_saved_and_wrong_ones_are_said(tmp_path):
    masked = compiled()
    vector = np.linspace(0, 1, 8)
    set_attenuation(masked, {"conv2": vector})
    masked.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(attenuation(loaded)["conv2"], vector)
    wrapper = loaded.get_layer("conv2")
    np.testing.assert_allclose(wrapper.attenuation, vector)
    assert loaded.get_layer("norm2").attenuation is None
    with pytest.raises(ValueError, match="Masks were given for group 'conv3'"):
        set_attenuation(masked, {"conv3": vector})
    with pytest.raises(ValueError, match=r"must have shape \(8,\)"):
        set_attenuation(masked, {"conv2": vector[1:]})
