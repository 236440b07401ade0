"""The first step after a rebuild is the step the masked model would do."""

import keras
import numpy as np
import pytest
import zoo
from harness import difference
from harness import floatx
from harness import outputs
from harness import random_inputs
from harness import random_masks
from harness import randomise

import kprune
from kprune.masking.slots import slot_variables

OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.01, momentum=0.9),
    "nesterov": lambda: keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True),
    "adam": lambda: keras.optimizers.Adam(0.01),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "amsgrad": lambda: keras.optimizers.Adam(0.01, amsgrad=True),
    "rmsprop": lambda: keras.optimizers.RMSprop(
        0.01, momentum=0.5, centered=True
    ),
    "ema": lambda: keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.5),
    "clipped": lambda: keras.optimizers.SGD(
        0.1, momentum=0.9, global_clipnorm=0.01
    ),
    "schedule": lambda: keras.optimizers.Adam(
        keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)
    ),
    "accumulating": lambda: keras.optimizers.SGD(
        0.01, momentum=0.9, gradient_accumulation_steps=2
    ),
}


def trained(optimizer, steps=3):
    """A masked model that has been trained before and after masking."""
    model = zoo.projection_resnet()
    randomise(model)
    masked = kprune.wrap(model)
    masked.compile(optimizer, "mse", run_eagerly=True)
    x = random_inputs(model)
    y = np.sin(np.arange(15.0)).reshape(3, 5)
    for step in range(steps):
        if step == 1:
            kprune.set_masks(masked, random_masks(kprune.trace(masked)))
        masked.train_on_batch(x, y)
    return masked, x, y


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_as_if_nothing_happened(name):
    with floatx("float64"):
        masked, x, y = trained(OPTIMIZERS[name]())
        compact = kprune.rebuild(masked)
        for _ in range(2):
            a = masked.train_on_batch(x, y)
            b = compact.train_on_batch(x, y)
            np.testing.assert_allclose(a, b, rtol=1e-9)
            assert difference(outputs(masked, x), outputs(compact, x)) <= 1e-9


def test_a_fresh_optimizer_would_have_been_noticed():
    with floatx("float64"):
        masked, x, y = trained(OPTIMIZERS["adam"]())
        compact = kprune.rebuild(masked)
        compact.compile(OPTIMIZERS["adam"](), "mse", run_eagerly=True)
        masked.train_on_batch(x, y)
        compact.train_on_batch(x, y)
        assert difference(outputs(masked, x), outputs(compact, x)) > 1e-4


def test_slots_are_found_by_variable():
    masked, _, _ = trained(OPTIMIZERS["adam"](), steps=1)
    slots = slot_variables(masked.optimizer, masked.trainable_variables)
    for variable, found in zip(masked.trainable_variables, slots, strict=True):
        assert len(found) == 2
        assert all(tuple(s.shape) == tuple(variable.shape) for s in found)


def test_loss_scaling_optimizer():
    model = zoo.sequential()
    masked = kprune.wrap(model)
    inner = keras.optimizers.Adam(0.01)
    optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=8.0)
    masked.compile(optimizer, "mse", run_eagerly=True)
    x, y = random_inputs(model), np.ones((3, 4))
    masked.train_on_batch(x, y)
    kprune.set_masks(masked, random_masks(kprune.trace(masked)))
    compact = kprune.rebuild(masked)
    assert int(compact.optimizer.iterations.value) == 1
    masked.train_on_batch(x, y)
    compact.train_on_batch(x, y)
    assert difference(outputs(masked, x), outputs(compact, x)) <= 1e-4


def test_plain_python_losses_and_metrics_survive():
    def loss(y, p):
        return keras.ops.mean(keras.ops.square(y - p))

    masked = kprune.wrap(zoo.sequential())
    masked.compile(
        "sgd", loss, metrics=[keras.metrics.MeanAbsoluteError("mae")]
    )
    compact = kprune.rebuild(masked)
    result = compact.evaluate(
        np.ones((2, 8, 8, 3)), np.ones((2, 4)), return_dict=True, verbose=0
    )
    assert set(result) == {"loss", "mae"}


def test_uncompiled_stays_uncompiled():
    assert not kprune.rebuild(kprune.wrap(zoo.sequential())).compiled
