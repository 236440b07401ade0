"""Donors, shares, noise, consumers and training of copies."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from fitting import arrays
from fitting import loss
from fitting import small_net
from harness import difference
from harness import floatx
from harness import outputs
from harness import randomise
from keras import layers
from models import convolutions

import kprune
from kprune.duplication import Absorb
from kprune.duplication import Copies
from kprune.duplication import Split
from kprune.duplication import Vacancies
from kprune.duplication import donors
from kprune.rebuild.clones import find_clones
from kprune.rebuild.copies import CopyMap


def group_of(kernel):
    """The group of a Dense layer with this kernel."""
    inputs = keras.Input((kernel.shape[0],))
    x = layers.Dense(kernel.shape[1], use_bias=False, name="wide")(inputs)
    model = keras.Model(inputs, layers.Dense(1)(x))
    model.get_layer("wide").set_weights([kernel])
    return kprune.trace(model)["wide"]


def chosen(identifier, scores, kept, replaced, copies=3, kernel=None):
    scores = np.asarray(scores, dtype=float)
    if kernel is None:
        kernel = np.ones((2, scores.size), "float32")
    vacancies = Vacancies(
        group_of(kernel), scores, np.array(kept), np.array(replaced), copies
    )
    return donors.choose(identifier, vacancies).tolist()


def test_rank_takes_turns_from_the_best():
    found = chosen("rank", [9, 1, 5, 2, 7, 3], [0, 2, 4], [1, 3, 5])
    # Slots, best first: 5, 3, 1; donors in turns: 0, 4, 2.
    assert found == [2, 4, 0]
    found = chosen("rank", [9, 1, 2, 3, 4, 5], [0, 5], [1, 2, 3, 4], 2)
    assert sorted(found) == [0, 0, 5, 5]


def test_proportional_by_largest_remainder():
    # 5 copies for weights 6 : 3 : 1 = 3, 1.5, 0.5 -> 3, 2, 0 (first wins ties).
    scores = [6, 3, 1, 0.5, 0.4, 0.3, 0.2, 0.1]
    found = chosen("proportional", scores, [0, 1, 2], range(3, 8), copies=5)
    assert np.bincount(found, minlength=3).tolist() == [3, 2, 0]
    capped = chosen("proportional", scores, [0, 1, 2], range(3, 8), copies=2)
    assert np.bincount(capped, minlength=3).tolist() == [2, 2, 1]


def test_proportional_without_positive_scores():
    found = chosen("proportional", [-1, -2, -3, -4], [0, 1], [2, 3])
    assert sorted(found) == [0, 1]


def test_nearest_is_the_largest_cosine():
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(5, 6)).astype("float32")
    kernel[:, 4] = 3 * kernel[:, 1]
    kernel[:, 5] = -kernel[:, 0]
    unit = kernel / np.linalg.norm(kernel, axis=0)
    cosines = unit.T @ unit
    found = chosen("nearest", np.arange(6), [0, 1, 2, 3], [4, 5], 3, kernel)
    assert found[0] == 1
    assert found[1] == np.argmax(cosines[5, :4])
    twice = chosen("nearest", np.arange(6), [0, 1], [2, 4], 1, kernel)
    assert twice == [0, 1], "a donor has room for one copy"


def test_own_donor_map_is_checked():
    assert chosen(lambda v: [v.kept[0]] * 2, [1, 2, 3], [2], [0, 1]) == [2, 2]
    with pytest.raises(ValueError, match="must return"):
        chosen(lambda v: v.replaced, [1, 2, 3], [2], [0, 1])
    with pytest.raises(ValueError, match="Known names: 'nearest'"):
        Copies(donors="best")


def net():
    return convolutions((8, 8), (6, 6, 2), names=("conv", "next"), norms=1)


def inputs(count=8):
    return np.random.default_rng(0).normal(size=(count, 6, 6, 2))


def duplicated(share=0.5, copies=None, build=net, **kwargs):
    model = build()
    randomise(model)
    return model, kprune.duplicate(
        model, allocation={"conv": share}, copies=copies, **kwargs
    )


def test_what_finds_no_donor_is_removed():
    _, masked = duplicated(0.75, Copies(set_size=2))
    assert kprune.masks(masked)["conv"].sum() == 4
    assert kprune.rebuild(masked).get_layer("conv").filters == 2


def test_a_donor_and_its_copies():
    known = CopyMap(np.array([0, 0, 2, 2, 2, 5]))
    assert [s.tolist() for s in known.sets()] == [[0, 1], [2, 3, 4]]
    np.testing.assert_allclose(known.shares, [1 / 2, 1 / 2, *[1 / 3] * 3, 1])


def test_random_shares_add_up():
    with floatx("float64"):
        model, masked = duplicated(copies=Copies(consumers=Split("random")))
        pruned = kprune.prune(model, allocation={"conv": 0.5})
        x = inputs()
        assert difference(outputs(masked, x), outputs(pruned, x)) <= 1e-10
    graph = kprune.trace(masked)
    clones = find_clones(masked, graph, {"conv": np.ones(8)})["conv"]
    kernel = masked.get_layer("next").layer.get_weights()[0]
    first, second = clones.sets()[0][:2]
    assert np.abs(kernel[:, :, first] - kernel[:, :, second]).max() > 1e-3


def test_random_shares_are_the_same_each_time():
    copies = Copies(consumers=Split("random", seed=3))
    model = convolutions((4, 4), (8, 8, 1))
    one, two = (
        kprune.duplicate(model, allocation="uniform", copies=copies)
        for _ in range(2)
    )
    for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    first = copies.consumers.shares(np.array([0, 0, 2, 2]))
    assert abs(first[0] - first[2]) > 1e-3
    other = Split("random", seed=4).shares(np.array([0, 0, 2, 2]))
    assert np.abs(first - other).max() > 1e-3


def test_noise_is_relative_to_the_donor():
    model, masked = duplicated(
        copies=Copies(noise=0.01, donors="rank"),
        criterion=lambda g: np.arange(8),
    )
    before = model.get_layer("conv").get_weights()[0]
    after = masked.get_layer("conv").layer.get_weights()[0]
    np.testing.assert_array_equal(after[..., 4:], before[..., 4:])
    moved = after[..., :4] - before[..., 4:]
    ratio = moved.std((0, 1, 2)) / before[..., 4:].std((0, 1, 2))
    assert (np.abs(ratio - 0.01) < 0.006).all() and ratio.std() > 0
    small = kprune.rebuild(masked)
    assert small.get_layer("conv").filters == 8, "nothing is equal"


def test_naive_leaves_consumers_and_changes_the_outputs():
    with floatx("float64"):
        model, masked = duplicated(copies=Copies(consumers="naive"))
        _, split = duplicated()
        x = inputs()
        assert difference(outputs(masked, x), outputs(split, x)) > 1e-3
        np.testing.assert_array_equal(
            masked.get_layer("next").layer.get_weights()[0],
            model.get_layer("next").get_weights()[0],
        )
        small = kprune.rebuild(masked)
        assert difference(outputs(masked, x), outputs(small, x)) <= 1e-10


def test_a_function_as_consumer_rule():
    def halves(rows, copy_map):
        return rows[copy_map.donors] / 2

    model = net()
    randomise(model)
    kwargs = {"allocation": {"conv": 0.5}}
    masked = kprune.duplicate(model, copies=Copies("rank", halves), **kwargs)
    split = kprune.duplicate(model, copies=Copies("rank"), **kwargs)
    x = inputs().astype("float32")
    assert difference(outputs(masked, x), outputs(split, x)) < 1e-5


@pytest.mark.parametrize(
    "options, message",
    [
        ({"set_size": 1}, "set_size"),
        ({"noise": -1}, "noise"),
        ({"consumers": "cut"}, "'cut'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        Copies(**options)


def compiled(optimizer):
    model = small_net(8)
    randomise(model)
    model.compile(optimizer, loss(), jit_compile=False)
    return model


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_tied_copies_stay_together(optimizer):
    """Invariant: equal gradients, so they merge after 20 steps."""
    masked = kprune.duplicate(compiled(optimizer), allocation="uniform")
    x, y = arrays(16)
    for _ in range(20):
        masked.train_on_batch(x, y)
    small = kprune.rebuild(masked, merge=1e-5)
    assert kprune.cost(small).macs < 0.5 * kprune.cost(masked).macs
    assert difference(outputs(masked, x), outputs(small, x)) < 1e-5


def test_random_shares_part_in_training():
    model = compiled("sgd")
    # A filter that no gradient reaches behind its ReLU cannot part.
    conv = model.get_layer("conv3")
    conv.bias.assign(keras.ops.ones_like(conv.bias))
    masked = kprune.duplicate(
        model, allocation="uniform", copies=Copies(consumers=Split("random"))
    )
    x, y = arrays(16)
    masked.train_on_batch(x, y)
    small = kprune.rebuild(masked, merge=1e-5)
    assert kprune.cost(small).macs == kprune.cost(masked).macs


def test_step_of_a_copy_is_its_share_of_the_step_of_the_donor():
    """dL/dW_j = s_j g_W and dL/dV_j = g_V, g of the pruned model."""
    with floatx("float64"):
        model = compiled(keras.optimizers.SGD(0.1))
        kwargs = {"criterion": lambda g: np.arange(g.size)}
        kwargs["allocation"] = {"conv3": 0.5}
        masked = kprune.duplicate(model, copies=Copies(donors="rank"), **kwargs)
        pruned = kprune.prune(model, **kwargs)
        x, y = arrays(16)
        moves = []
        for one in (masked, pruned):
            weights = [
                one.get_layer(name).layer.kernel for name in ("conv3", "head")
            ]
            before = [np.array(keras.ops.convert_to_numpy(w)) for w in weights]
            one.train_on_batch(x.astype("float64"), y)
            moves.append([
                keras.ops.convert_to_numpy(w) - b
                for w, b in zip(weights, before, strict=True)
            ])  # fmt: skip
    (filters, readers), (own, read) = moves
    for half in (filters[..., :4], filters[..., 4:]):
        np.testing.assert_allclose(half, own[..., 4:] / 2, atol=1e-14)
    for half in (readers[:4], readers[4:]):
        np.testing.assert_allclose(half, read[4:], atol=1e-14)


def test_optimizer_slots_follow():
    model = compiled(keras.optimizers.SGD(0.1, momentum=0.9))
    x, y = arrays(16)
    model.train_on_batch(x, y)
    masked = kprune.duplicate(
        model, criterion=lambda g: np.arange(g.size),
        allocation={"conv3": 0.5}, copies=Copies(donors="rank"),
    )  # fmt: skip
    number = [v.path for v in masked.trainable_variables].index("conv3/kernel")
    slot = masked.optimizer.momentums[number]
    slot = keras.ops.convert_to_numpy(slot)
    np.testing.assert_array_equal(slot[..., :4], slot[..., 4:])
    assert np.abs(slot).max() > 0


# -- absorb ------------------------------------------------------------------


def linked(bias=True, activation="relu", offset=0.0):
    """Channels 0-3 are half of channels 4-7 plus an offset."""
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(8, 3, activation=activation, name="conv")(inputs)
    x = layers.Conv2D(4, 3, use_bias=bias, name="next")(x)
    if not bias:
        x = layers.BatchNormalization(name="norm")(x)
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(x))
    model = keras.Model(inputs, layers.Dense(3, name="head")(x))
    randomise(model)
    kernel, constant = model.get_layer("conv").get_weights()
    kernel[..., :4] = kernel[..., 4:] / 2
    constant[:4] = constant[4:] / 2 + offset
    model.get_layer("conv").set_weights([kernel, constant])
    return model


def absorbing(model, rule, data=None):
    return kprune.duplicate(
        model, criterion=lambda g: np.arange(g.size), data=data,
        allocation={"conv": 0.5}, copies=Copies("rank", rule),
    )  # fmt: skip


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "norm"])
def test_absorbed_channels_are_not_missed(bias):
    """z_u = z_c / 2 + 0.7: slopes into weights, constants into biases."""
    with floatx("float64"):
        model = linked(bias, activation=None, offset=0.7)
        x = inputs()
        masked = absorbing(model, "absorb", x)
        assert difference(outputs(model, x), outputs(masked, x)) < 1e-5
        small = kprune.rebuild(masked)
        assert small.get_layer("conv").filters == 4
        assert difference(outputs(model, x), outputs(small, x)) < 1e-5
        plain = absorbing(model, "split")
        assert difference(outputs(model, x), outputs(plain, x)) > 1e-2


def test_absorbing_without_data():
    """Cosine 1, half the length: exact behind a ReLU."""
    with floatx("float64"):
        model, x = linked(), inputs()
        masked = absorbing(model, Absorb())
        assert difference(outputs(model, x), outputs(masked, x)) < 1e-10
        none = absorbing(model, Absorb(threshold=1.1))
        plain = absorbing(model, "split")
        assert difference(outputs(none, x), outputs(plain, x)) < 1e-10


@pytest.mark.parametrize("sign", [1, -1])
def test_absorbing_without_data_counts_the_sign_of_gamma(sign):
    """Filters 0-3 are 4-7 or their negatives; their scales are half as large."""
    inputs_ = keras.Input((6, 6, 2))
    x = layers.Conv2D(8, 3, use_bias=False, name="conv")(inputs_)
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    x = layers.Conv2D(4, 3, name="next")(x)
    x = layers.GlobalAveragePooling2D()(x)
    with floatx("float64"):
        model = keras.Model(inputs_, layers.Dense(3, name="head")(x))
        randomise(model)
        norm = model.get_layer("norm")
        gamma, beta, mean, variance = norm.get_weights()
        gamma[:4], beta[:4] = -gamma[4:] / 2, beta[4:] / 2
        mean[:4], variance[:4] = sign * mean[4:], variance[4:]
        norm.set_weights([gamma, beta, mean, variance])
        (kernel,) = model.get_layer("conv").get_weights()
        kernel[..., :4] = sign * kernel[..., 4:]
        model.get_layer("conv").set_weights([kernel])
        # With gamma turned round, only the negative of a filter acts as it does.
        masked = absorbing(model, Absorb(threshold=0.99))
        plain = absorbing(model, "split")
        wanted = model if sign < 0 else plain
        other = plain if sign < 0 else model
        x = inputs()
        assert difference(outputs(wanted, x), outputs(masked, x)) < 1e-6
        assert difference(outputs(other, x), outputs(masked, x)) > 1e-3


def test_slopes_are_least_squares():
    """Against numpy.linalg.lstsq on what the consumer reads."""
    from kprune.data.source import as_source
    from kprune.duplication.statistics import regress

    with floatx("float64"):
        model = net()
        randomise(model)
        masked = kprune.wrap(model)
        graph = kprune.trace(masked)
        known = CopyMap(np.array([4, 5, 6, 7, 4, 5, 6, 7]))
        x = inputs()
        fits = regress(masked, graph, {"conv": known}, as_source(x))
        member = graph["conv"].consumers[0]
        seen = keras.Model(model.input, model.get_layer("next").input)(x)
        seen = keras.ops.convert_to_numpy(seen).reshape(-1, 8)
    fit = fits.of("conv", member)
    for channel in range(4):
        design = np.stack([seen[:, channel + 4], np.ones(len(seen))], axis=1)
        best = np.linalg.lstsq(design, seen[:, channel], rcond=None)[0]
        found = [fit.slopes[channel], fit.constants[channel, 0]]
        np.testing.assert_allclose(found, best, rtol=1e-4, atol=1e-6)
