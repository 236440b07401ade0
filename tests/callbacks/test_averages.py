"""What kprune changes about weights outlasts what optimizers keep of them."""

from __future__ import annotations

import keras
import models
import numpy as np
import pytest

import kprune
from kprune import callbacks
from kprune.masking.slots import copies_of_weights
from kprune.schedules import Constant

REDUCE = {"params": 0.4}
X = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
Y = (X[:, 0] > 0).astype("int64")

CALLBACKS = {
    "copies": lambda: callbacks.DuplicateCallback(
        reduce=REDUCE, allocation="global", epoch=1
    ),
    "merged copies": lambda: callbacks.DuplicateCallback(
        reduce=REDUCE, allocation="global", merge=callbacks.Merge(epoch=2)
    ),
    "clusters": lambda: callbacks.ClusterCallback(
        reduce=REDUCE, schedule=Constant(end=2)
    ),
    "attenuated": lambda: callbacks.AttenuateCallback(
        reduce=REDUCE, schedule=Constant(begin=1, end=4)
    ),
    "soft": lambda: callbacks.SoftPruneCallback(
        reduce=REDUCE, schedule=Constant(begin=1, end=4)
    ),
    "repaired": lambda: callbacks.PruneCallback(
        "l1", REDUCE, kprune.OneShot(1), data=X, recover="reconstruct"
    ),
}


def averaging():
    """An optimizer that moves nothing but averages."""
    return keras.optimizers.SGD(0.0, use_ema=True, ema_momentum=0.9)


def iterating():
    if not hasattr(keras.optimizers, "ScheduleFreeAdamW"):
        pytest.skip("this Keras has no ScheduleFreeAdamW")
    return keras.optimizers.ScheduleFreeAdamW(1e-12)


def several():
    if not hasattr(keras.optimizers, "MultiOptimizer"):
        pytest.skip("this Keras has no MultiOptimizer")
    others = {"head/.*": averaging()}
    return keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(averaging(), others)
    )


OPTIMIZERS = {f.__name__: f for f in (averaging, iterating, several)}


def compiled(optimizer):
    keras.utils.set_random_seed(0)
    model = models.dense_layers([12, 12], 6)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, run_eagerly=True)
    optimizer.build(model.trainable_variables)
    return model


def train(model, epochs=1, callbacks=()):
    model.fit(X, Y, epochs=epochs, callbacks=[*callbacks], verbose=0)


def outputs(model):
    return model.predict_on_batch(X)


@pytest.mark.parametrize("way", CALLBACKS)
def test_training_does_not_end_with_what_was_before(way):
    masked = kprune.wrap(compiled(averaging()))
    seen = [outputs(masked)]
    see = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(outputs(masked))
    )
    train(masked, 3, [CALLBACKS[way](), see])
    assert np.abs(seen[-1] - seen[0]).max() > 1e-3
    np.testing.assert_allclose(outputs(masked), seen[-1], atol=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_from_the_repaired_model(name):
    model = compiled(OPTIMIZERS[name]())
    train(model)
    pruned = kprune.prune(model, "l1", REDUCE, data=X, recover="reconstruct")
    compact = kprune.rebuild(pruned)
    before = outputs(compact)
    plain = kprune.prune(model, "l1", REDUCE, recover=[])
    assert np.abs(outputs(plain) - before).max() > 1e-3
    train(compact)
    np.testing.assert_allclose(outputs(compact), before, atol=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_from_copies_and_from_merged_ones(name):
    model = compiled(OPTIMIZERS[name]())
    train(model)
    masked = kprune.duplicate(model, "l1", REDUCE, allocation="global")
    compact = kprune.rebuild(masked)
    assert compact.count_params() < model.count_params()
    for result in (masked, compact):
        before = outputs(result)
        train(result)
        np.testing.assert_allclose(outputs(result), before, atol=1e-5)


def test_weights_and_averages_are_attenuated_alike():
    masked = kprune.wrap(compiled(averaging()))
    kernel = masked.get_layer("d0").layer.kernel
    before = keras.ops.convert_to_numpy(kernel).copy()
    callback = callbacks.AttenuateCallback(
        reduce=REDUCE, factor=0.5, schedule=Constant(begin=1, end=4)
    )
    train(masked, 3, [callback])
    recorded = kprune.masking.attenuation(masked)["d0"]
    assert recorded.min() == 0.25
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(kernel), before * recorded, rtol=1e-5
    )


def binary(masked):
    train(masked, 1, [callbacks.BinarizeCallback()])


def closed(masked):
    kprune.masking.add_dynamic_gates(masked)
    train(masked)
    kprune.masking.close_gates(masked)


@pytest.mark.parametrize("change", [binary, closed])
def test_what_is_changed_after_training_stays(change):
    masked = kprune.wrap(compiled(averaging()))
    original = outputs(masked)
    change(masked)
    before = outputs(masked)
    assert np.abs(before - original).max() > 1e-3
    train(masked)
    np.testing.assert_allclose(outputs(masked), before, atol=1e-5)


def test_averages_keep_their_distance_in_repairs_inside_of_repairs():
    masked = kprune.wrap(compiled(averaging()))
    session = kprune.Session(masked, X)
    before = session.snapshot()
    session.remove({"d0": [1, 0] * 6})
    kernel = masked.get_layer("d1").layer.kernel
    (average,) = (
        slot
        for slot in copies_of_weights(masked.optimizer)[id(kernel)].values()
    )
    numpy = keras.ops.convert_to_numpy
    start = numpy(kernel), numpy(average)
    kprune.recovery.recover(
        session,
        before,
        lambda s, b: kprune.recovery.recover(s, b, "reconstruct"),
    )
    assert np.abs(numpy(kernel) - start[0]).max() > 1e-3
    np.testing.assert_allclose(
        numpy(average) - numpy(kernel), start[1] - start[0], atol=1e-6
    )
