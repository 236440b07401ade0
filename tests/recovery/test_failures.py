"""A repair that fails leaves nothing behind; samples with NaN."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import kprune


def net(*first):
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            *first,
            layers.Conv2D(6, 3, name="a"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(4, 3, name="b"),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )
    model.compile("adam", "mse")
    return model


@keras.saving.register_keras_serializable(package="tests")
class Impute(layers.Layer):
    def call(self, x):
        return keras.ops.where(
            keras.ops.isfinite(x), x, keras.ops.zeros_like(x)
        )


def samples(*bad):
    x = np.random.default_rng(0).normal(size=(32, 6, 6, 2)).astype("float32")
    for number, value in enumerate(bad):
        x[number, 0, 0, 0] = value
    return x


def everything(masked):
    variables = [*masked.variables, *masked.optimizer.variables]
    return [np.array(keras.ops.convert_to_numpy(v)) for v in variables]


def raises(session, before):
    head = session.masked.layers[-1].weights[0]
    head.assign(head * 0)
    raise ZeroDivisionError("mine")


def ruins(session, before):
    head = session.masked.layers[-1].weights[0]
    head.assign(head * np.nan)


@pytest.mark.parametrize(
    ("recover", "error", "said"),
    [
        (raises, ZeroDivisionError, "mine"),
        (ruins, ValueError, "has NaN or infinite"),
    ],
)
def test_a_failing_repair_leaves_all_as_it_was(recover, error, said):
    masked = kprune.wrap(net())
    masked.train_on_batch(samples(), np.zeros((32, 2)))
    before = everything(masked)
    with pytest.raises(error, match=said):
        kprune.prune(
            masked, reduce={"macs": 0.5}, data=samples(), recover=recover
        )
    for one, other in zip(before, everything(masked), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("recover", ["bn", "bias", "reconstruct"])
def test_samples_that_a_model_can_take(recover):
    x = samples(np.nan, np.inf)
    masked = kprune.prune(
        net(Impute()), reduce={"macs": 0.4}, data=x, recover=recover
    )
    assert all(np.isfinite(w).all() for w in masked.get_weights())
    with pytest.raises(ValueError, match="`data` holds nan in sample 0"):
        kprune.prune(net(), reduce={"macs": 0.4}, data=x, recover=recover)


def test_finite_samples_whose_outputs_overflow_are_refused():
    model = net(layers.Rescaling(1e20))
    kprune.prune(model, reduce={"macs": 0.4}, data=1e-20 * samples())
    with pytest.raises(ValueError, match="first samples of `data`, whose inp"):
        kprune.prune(model, reduce={"macs": 0.4}, data=1e25 * samples())
