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
from kprune.masking.slots import slots_by_variable

RATE = keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)


def several():
    one = keras.optimizers.SGD(RATE, momentum=0.9)
    other = keras.optimizers.AdamW(0.01, weight_decay=0.1)
    named = {"stem.*": other, "head.*": other}
    return keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(one, named)
    )


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
    "schedule": lambda: keras.optimizers.Adam(RATE),
    "accumulating": lambda: keras.optimizers.SGD(
        0.01, momentum=0.9, gradient_accumulation_steps=2
    ),
}
if hasattr(keras.optimizers, "MultiOptimizer"):
    OPTIMIZERS["several"] = several


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


SLOW = {"nesterov", "clipped", "rmsprop", "amsgrad", "schedule"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [])
        for name in OPTIMIZERS
    ],
)
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
    slots = slots_by_variable(masked)
    for variable in masked.trainable_variables:
        found = slots[id(variable)]
        assert sorted(found) == ["_momentums", "_velocities"]
        assert all(
            tuple(s.shape) == tuple(variable.shape) for s in found.values()
        )


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


def small(trainable=True, optimizer="adam", loss="mse"):
    base = zoo.sequential()
    base.trainable = trainable
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, keras.layers.Dense(2, name="top")(base(inputs)))
    model.compile(optimizer, loss, run_eagerly=True)
    return base, model, (random_inputs(model), np.ones((3, 2)))


def value(variable):
    return np.array(keras.ops.convert_to_numpy(variable))


def slots(model):
    """By path of a variable its slots, as arrays."""
    found = slots_by_variable(model)
    return {
        v.path: [value(s) for s in found[id(v)].values()]
        for v in model.trainable_variables
        if found.get(id(v))
    }


def test_what_was_frozen_when_compiled_starts_afresh_and_the_rest_goes_on(
    caplog,
):
    base, model, data = small(trainable=False)
    model.train_on_batch(*data)
    base.trainable = True
    before = slots(model)
    assert list(before) == ["top/kernel", "top/bias"]
    masked = kprune.wrap(model)
    after = slots(masked)
    assert len(after) == len(masked.trainable_variables) > len(before)
    for name, arrays in before.items():
        np.testing.assert_array_equal(after[name], arrays)
    assert "starts without state for conv1/kernel" in caplog.text
    masked.train_on_batch(*data)
    kprune.rebuild(masked)


def test_what_is_frozen_after_training_keeps_no_slots():
    _, model, data = small()
    masked = kprune.wrap(model)
    masked.train_on_batch(*data)
    kprune.prune(masked)
    masked.get_layer("sequential").trainable = False
    compact = kprune.rebuild(masked)
    assert (
        difference(outputs(masked, data[0]), outputs(compact, data[0])) < 1e-5
    )
    left = slots(compact)
    assert list(left) == ["top/kernel", "top/bias"]
    np.testing.assert_array_equal(left["top/bias"], slots(masked)["top/bias"])


@pytest.mark.parametrize(
    "excluded", [{"var_names": ["bias"]}, {"var_list": ["top/kernel"]}]
)
def test_what_is_excluded_from_weight_decay_stays_excluded(excluded):
    _, model, data = small(loss=lambda y, p: 0.0 * keras.ops.sum(p, axis=-1))
    if "var_list" in excluded:
        paths = excluded["var_list"]
        excluded = {"var_list": [v for v in model.variables if v.path in paths]}
    optimizer = keras.optimizers.AdamW(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(**excluded)
    model.compile(optimizer, model.loss, run_eagerly=True)
    for copy in (kprune.wrap(model), kprune.rebuild(kprune.wrap(model))):
        before = {v.path: value(v) for v in copy.trainable_variables}
        copy.train_on_batch(*data)
        moved = {
            v.path: bool((value(v) != before[v.path]).any())
            for v in copy.trainable_variables
            if before[v.path].any()
        }
        kept = [path for path, has in moved.items() if not has]
        if "var_list" in excluded:
            assert kept == ["top/kernel"] and len(moved) > 1
        else:
            assert all("bias" in path for path in kept) and any(moved.values())


def test_accumulators_of_removed_weights_are_as_before_the_first_step():
    optimizer = keras.optimizers.Ftrl(0.01, initial_accumulator_value=0.3)
    _, model, data = small(optimizer=optimizer)
    model.train_on_batch(*data)
    masked = kprune.prune(model, "l1", {"macs": 0.5})
    kernel = masked.get_layer("sequential").get_layer("conv1").layer.kernel
    gone = kprune.masks(masked)["conv1"] == 0
    found = slots_by_variable(masked)[id(kernel)]
    accumulators = value(found["_accumulators"])[..., gone]
    assert gone.any() and np.allclose(accumulators, 0.3)
    for _ in range(2):
        assert np.isfinite(masked.train_on_batch(*data))


class Warmup(keras.optimizers.schedules.LearningRateSchedule):
    """Has no `get_config`, as in many tutorials."""

    def __init__(self, peak):
        self.peak = peak

    def __call__(self, step):
        return self.peak / (1.0 + keras.ops.cast(step, "float64"))


@pytest.mark.parametrize(
    "rate, scaled", [(Warmup(0.1), True), (lambda: 0.1, False)]
)
def test_schedules_without_configuration_go_on(rate, scaled, caplog):
    with floatx("float64"):
        optimizer = keras.optimizers.AdamW(rate, weight_decay=0.1, beta_1=0.8)
        if scaled:
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        masked, x, y = trained(optimizer, steps=2)
        compact = kprune.rebuild(masked)
        for _ in range(2):
            a, b = (m.train_on_batch(x, y) for m in (masked, compact))
            np.testing.assert_allclose(a, b, rtol=1e-9)
        assert difference(outputs(masked, x), outputs(compact, x)) <= 1e-9
    assert not caplog.text


def test_own_optimizers_that_write_their_rate_keep_the_schedule(caplog):
    class Writing(keras.optimizers.SGD):
        def get_config(self):
            rate = float(self.learning_rate)
            return {**super().get_config(), "learning_rate": rate}

    rate = Warmup(0.1)
    _, model, _ = small(optimizer=Writing(rate))
    masked = kprune.wrap(model)
    assert type(masked.optimizer) is Writing
    assert masked.optimizer._learning_rate is rate
    assert not caplog.text


def test_an_optimizer_that_cannot_be_recreated_is_left_out_by_name(caplog):
    class Odd(keras.optimizers.SGD):
        def __init__(self, power, **kwargs):
            super().__init__(**kwargs)
            self.power = power

    _, model, data = small(optimizer=Odd(2, learning_rate=0.1))
    masked = kprune.wrap(model)
    assert "Odd 'odd' (power)" in caplog.text
    masked.evaluate(*data, verbose=0)
