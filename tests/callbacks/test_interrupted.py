"""The next `fit` finds nothing of one that was interrupted, whatever its callbacks."""

from __future__ import annotations

import keras
import models
import numpy as np
import pytest

import kprune
from kprune import callbacks
from kprune.regularizers.attaching import attached

REDUCE = {"macs": 0.4}
X = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype("float32")
Y = np.ones((8, 3), "float32")


class Interrupts(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        raise KeyboardInterrupt


class Own(keras.Model):
    """Trains in a way of its own."""

    def train_step(self, data):
        return super().train_step(data)


def gated(masked):
    kprune.masking.add_gates(masked)
    return callbacks.GateCallback(reduce=REDUCE, schedule=kprune.OneShot(2))


def dynamic(masked):
    kprune.masking.add_dynamic_gates(masked)
    return callbacks.DynamicGateCallback(reduce=REDUCE)


def penalised(masked):
    return callbacks.RegularizeCallback("l2", until=2)


def binary(masked):
    return callbacks.BinarizeCallback()


def compiled():
    base = models.convolutions([8, 8, 8])
    model = Own(base.input, base.output)
    # The losses of several callbacks would depend on the step.
    model.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=True)
    return model


def left(masked):
    """What callbacks set on a model and its layers during `fit`."""
    wrappers = kprune.masking.filter_masks(masked)
    gates = kprune.masking.gates(masked).values()
    return [
        *({"fit", "compute_loss"} & set(vars(masked))),
        *attached(masked),
        *(w.name for w in wrappers if w.forms or w.observer is not None),
        *(g for g in gates if getattr(g, "observer", None) is not None),
        *(g for g in gates if getattr(g, "witness", None) is not None),
    ]


def kernel(masked):
    variable = masked.get_layer("conv2").layer.kernel
    return np.array(keras.ops.convert_to_numpy(variable))


def train(masked, *used, **options):
    masked.fit(X, Y, epochs=3, callbacks=list(used), verbose=0, **options)


def interrupted(begin):
    """A model whose training with a callback was interrupted, and the callback."""
    masked = kprune.wrap(compiled())
    callback = begin(masked)
    with pytest.raises(KeyboardInterrupt):
        train(masked, callback, Interrupts())
    return masked, callback


@pytest.mark.parametrize("begin", [gated, dynamic, penalised, binary])
def test_a_fit_without_callbacks_is_a_plain_one(begin):
    masked, _ = interrupted(begin)
    assert left(masked)
    if begin in (penalised, binary):
        copy = kprune.rebuild(masked)
        assert not {"fit", "compute_loss"} & set(vars(copy))
    before = kernel(masked)
    train(masked)
    assert not left(masked)
    np.testing.assert_array_equal(kernel(masked), before)


@pytest.mark.parametrize("begin", [gated, dynamic, penalised, binary])
def test_the_same_callback_goes_on(begin):
    masked, callback = interrupted(begin)
    seen = []
    see = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: seen.append(left(masked))
    )
    train(masked, callback, see)
    assert seen[0]
    assert not left(masked)


def test_penalties_that_were_attached_since_stay():
    masked, _ = interrupted(penalised)
    kprune.regularizers.detach(masked)
    kprune.regularizers.attach(masked, "l2", ["conv1"])
    train(masked)
    assert [layer.name for layer, _ in attached(masked)] == ["conv1"]


@pytest.mark.parametrize("begin", [gated, dynamic, penalised, binary])
def test_a_callback_that_trains_another_model_meanwhile(begin):
    one, callback = interrupted(begin)
    other = kprune.wrap(compiled())
    begin(other)
    train(other, callback)
    train(one)
    assert not left(one)


@pytest.mark.parametrize("begin", [gated, dynamic])
def test_another_model_may_have_other_names(begin):
    one, callback = interrupted(begin)
    base = models.convolutions([8, 8])
    x = keras.layers.Dense(3, name="other")(base.layers[-2].output)
    other = kprune.wrap(keras.Model(base.input, x))
    other.compile("sgd", "mse", jit_compile=False)
    begin(other)
    train(other, callback)
    train(one)
    assert not left(one) and not left(other)


def test_training_inside_of_training_undoes_nothing():
    masked = kprune.wrap(compiled())
    seen = []

    def inside(epoch, logs):
        masked.fit(X, Y, verbose=0)
        seen.append(len(attached(masked)))

    train(
        masked,
        callbacks.RegularizeCallback("l2"),
        keras.callbacks.LambdaCallback(on_epoch_end=inside),
    )
    assert seen[0] and len(set(seen)) == 1
    assert not left(masked)
