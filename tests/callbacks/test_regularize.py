"""Penalties that begin, end, and shrink kernels by a share."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from fitting import arrays
from fitting import dataset
from fitting import loss
from fitting import small_net
from keras.ops import convert_to_numpy

import kprune
from kprune.callbacks import RegularizeCallback
from kprune.masking.slots import base_optimizer
from kprune.regularizers import HierarchicalGroupSparsity
from kprune.regularizers.attaching import attached

SHARE = 0.3
COSINE = keras.optimizers.schedules.CosineDecay(0.1, 30)
LAYERS = ("conv1", "conv2", "conv3")


def kernels(model):
    return {
        n: np.array(convert_to_numpy(model.get_layer(n).kernel)) for n in LAYERS
    }


def lengths(model):
    kernel = kernels(model)["conv3"]
    return np.linalg.norm(kernel.reshape(-1, kernel.shape[-1]), axis=0)


def nothing(y_true, y_pred):
    return 0.0 * keras.ops.sum(y_pred, axis=-1)


def sgd(rate, **options):
    return keras.optimizers.SGD(rate, **options)


def fit(
    model, optimizer, objective, epochs=10, shrinkage=SHARE, regularizer=None
):
    """Train with the penalty; return what is left of each kernel's length."""
    jit = keras.config.backend() == "jax"
    model.compile(optimizer, objective, jit_compile=jit)
    before = kernels(model)
    callback = RegularizeCallback(
        regularizer or HierarchicalGroupSparsity(strength=1e-5),
        shrinkage=shrinkage,
    )
    model.fit(dataset(), epochs=epochs, callbacks=[callback], verbose=0)
    after = kernels(model)
    return {
        name: np.linalg.norm(after[name]) / np.linalg.norm(before[name])
        for name in LAYERS
    }


@pytest.fixture(scope="module")
def trained():
    """A net, trained, of which nothing reads the last four filters of "conv3"."""
    keras.utils.set_random_seed(0)
    model = small_net(8)
    head = model.get_layer("head")
    weights = np.array(convert_to_numpy(head.kernel))
    weights[4:] = 0
    head.kernel.assign(weights)
    head.trainable = False
    model.compile(keras.optimizers.Adam(0.005), loss())
    model.fit(dataset(), epochs=40, verbose=0)
    return model, model.get_weights()


def strengths(optimizer, data=None, **options):
    """Return the different strengths of the penalties of masked kernels."""
    masked = kprune.wrap(small_net(4))
    masked.compile(optimizer, loss(), run_eagerly=True)
    seen = set()

    class Spy(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            for name in LAYERS:
                kernel = masked.get_layer(name).layer.kernel
                seen.add(kernel.regularizer.regularizer.strength)

    regularizer = HierarchicalGroupSparsity(strength=1e-5)
    callback = RegularizeCallback(regularizer, **options)
    data = dataset() if data is None else data
    masked.fit(data, callbacks=[callback, Spy()], verbose=0)
    assert regularizer.strength == 1e-5
    return sorted(seen)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: sgd(1e-4),
        lambda: sgd(1e-2, momentum=0.9, nesterov=True),
        lambda: sgd(COSINE, momentum=0.9),
        lambda: sgd(1e-1, gradient_accumulation_steps=3),
    ],
    ids=["small rate", "nesterov", "schedule", "accumulated"],
)
def test_the_penalty_alone_takes_the_share_of_kernels_of_any_length(optimizer):
    keras.utils.set_random_seed(0)
    model = small_net(8)
    for name, factor in (("conv1", 0.01), ("conv3", 100.0)):
        layer = model.get_layer(name)
        layer.kernel.assign(factor * layer.kernel)
    for name, left in fit(model, optimizer(), nothing).items():
        # Small kernels reach 0 before the others have lost their share.
        assert 1 - SHARE - 0.05 < left < 1 - SHARE / 3, name


@pytest.mark.parametrize(
    "penalty",
    [
        "hierarchical_sqrt_group_l1_2",
        "hierarchical_squared_exclusive_sparsity",
    ],
)
def test_penalties_of_any_degree_take_the_share(penalty):
    model, rng = small_net(8), np.random.default_rng(0)
    for name in LAYERS:
        kernel = model.get_layer(name).kernel
        # Roots are steep near 0, where a step goes past it.
        size = rng.uniform(0.1, 0.3, kernel.shape)
        kernel.assign(size * rng.choice([-1, 1], kernel.shape))
    regularizer = HierarchicalGroupSparsity(penalty, mix=1.0)
    left = fit(model, sgd(1e-3), nothing, regularizer=regularizer)
    for name, value in left.items():
        assert 1 - SHARE - 0.05 < value < 1 - SHARE / 3, name


@pytest.mark.parametrize("rate", [1e-4, 1e-1])
def test_filters_that_nothing_reads_shrink_and_the_loss_stays(trained, rate):
    model, weights = trained
    model.set_weights(weights)
    before, first = model.evaluate(*arrays(), verbose=0), lengths(model)
    assert before < 0.75
    fit(model, sgd(rate), loss())
    left = lengths(model) / first
    assert np.median(left[4:]) < 1 - SHARE / 2
    model.compile(loss=loss())
    assert model.evaluate(*arrays(), verbose=0) < before + 0.25


def test_adam_has_the_strength_that_is_given():
    found = strengths(keras.optimizers.Adam(1e-3), shrinkage=SHARE)
    assert found == [1e-5]


@pytest.mark.parametrize("options", [{}, {"shrinkage": None}])
def test_without_a_share_the_strength_stays(options):
    assert strengths(sgd(0.1), **options) == [1e-5]


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_an_unknown_number_of_steps_leaves_the_strength(caplog):
    x, y = arrays(16)
    endless = ((x, y) for _ in range(2))
    assert strengths(sgd(0.1), endless, shrinkage=SHARE) == [1e-5]
    assert "does not follow the learning rates" in caplog.text


def test_a_share_needs_a_strength_that_shrinks():
    with pytest.raises(ValueError, match="no attribute `strength`"):
        RegularizeCallback(keras.regularizers.L2(0.1), shrinkage=0.3)
    for wrong in (0, 1, "half"):
        with pytest.raises(ValueError, match="between 0 and 1"):
            RegularizeCallback(HierarchicalGroupSparsity(), shrinkage=wrong)
    # Kernels shorter than 1 are to grow.
    orthonormal = kprune.regularizers.Orthonormal(norm="frobenius")
    model = small_net(8)
    for name in LAYERS:
        kernel = model.get_layer(name).kernel
        kernel.assign(0.1 * kernel)
    with pytest.raises(ValueError, match=r"conv1.*shrinkage=None"):
        fit(model, sgd(0.1), nothing, 1, regularizer=orthonormal)


def attached_kernels(model):
    return {variable.path for _, variable in attached(model)}


def test_several_callbacks_penalise_different_layers():
    model = small_net(4)
    model.compile(sgd(0.0), loss())
    seen = []
    see = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(
            attached_kernels(model)
        )
    )
    both = [
        RegularizeCallback("l2", until=1, layers=["conv1"]),
        RegularizeCallback("l2", until=2, layers=["conv2", "conv3"]),
    ]
    model.fit(dataset(count=16), epochs=3, callbacks=[*both, see], verbose=0)
    first, second, third = (model.get_layer(n).kernel.path for n in LAYERS)
    assert seen == [{first, second, third}, {second, third}, set()]


@pytest.mark.parametrize("begin", [1, 2])
def test_a_run_resumed_after_the_penalty_has_none(begin):
    data = arrays(16)
    recipe = kprune.recipe("orthoreg", {"macs": 0.3}, data=data, epochs=2)
    model = small_net(4)
    model.compile(sgd(0.01), loss(), run_eagerly=True)
    masked = recipe.prepare(model)
    assert attached(masked)
    callback = RegularizeCallback("l2", until=1)
    seen = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.kernels.update(
            attached_kernels(masked)
        )
    )
    seen.kernels = set()
    masked.fit(
        *data,
        epochs=2,
        initial_epoch=begin,
        callbacks=[callback, seen],
        verbose=0,
    )
    assert not seen.kernels
    assert not attached(masked)


def test_a_callback_that_has_ended_leaves_the_penalties_of_others():
    model = small_net(4)
    model.compile(sgd(0.0), loss())
    kernel = model.get_layer("conv1").kernel.path
    others = {model.get_layer(n).kernel.path for n in LAYERS[1:]}
    first = RegularizeCallback("l2", until=1, layers=["conv1"])
    second = RegularizeCallback("l2", until=3, layers=["conv2", "conv3"])
    kprune.regularizers.attach(model, "l2", ["conv1"])
    for order in ([first, second], [second, first]):
        seen = []
        see = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs, seen=seen: seen.append(
                attached_kernels(model)
            )
        )
        model.fit(
            dataset(count=16),
            epochs=2,
            initial_epoch=1,
            callbacks=[*order, see],
            verbose=0,
        )
        assert seen == [others]
        assert kernel not in attached_kernels(model)


def strength(optimizer, begun=0):
    """Return the strength of a penalty on one kernel from epoch 2 of 4 on."""
    keras.utils.set_random_seed(0)
    model = small_net(4)
    model.compile(optimizer, loss())
    optimizer.build(model.trainable_variables)
    base_optimizer(optimizer)._iterations.assign(begun)
    callback = RegularizeCallback(
        HierarchicalGroupSparsity(strength=1e-5), shrinkage=0.1
    )
    callback.set_model(model)
    callback.set_params({"epochs": 4, "steps": 5})
    callback.on_train_begin()
    callback.on_epoch_begin(2)
    return attached(model)[0][1].regularizer.regularizer.strength


def test_shrinkage_takes_the_rates_that_are_left():
    def steps():
        return sgd(
            keras.optimizers.schedules.PiecewiseConstantDecay([50], [1.0, 0.1])
        )

    later = strength(steps(), begun=100)
    assert later == pytest.approx(10 * strength(steps()), rel=1e-3)


def test_shrinkage_takes_the_rates_under_loss_scaling():
    def rising():
        return sgd(
            keras.optimizers.schedules.CosineDecay(
                0.0, 10, warmup_target=0.1, warmup_steps=5
            )
        )

    scaled = keras.optimizers.LossScaleOptimizer(rising())
    assert strength(scaled) == pytest.approx(strength(rising()), rel=1e-5)
