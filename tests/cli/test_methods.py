"""`kprune prune --method`: training from the command line."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from cli.running import assert_fails
from cli.running import run
from fitting import arrays
from fitting import loss
from fitting import small_net
from harness import prunable_sizes

import kprune
from kprune.commands.training import compile_with_rate
from kprune.masking.slots import base_optimizers


@pytest.fixture
def model():
    model = small_net(8)
    model.compile(keras.optimizers.SGD(0.05), loss())
    return model


@pytest.fixture
def files(tmp_path, model):
    """The model, a data set, and where to write."""
    model.save(tmp_path / "model.keras")
    x, y = arrays(48)
    np.savez(tmp_path / "train.npz", x=x, y=y)
    np.savez(tmp_path / "inputs.npz", x=x)
    return tmp_path


def prune(files, *options, data="train.npz"):
    return run(
        *("prune", files / "model.keras", files / "small.keras"),
        *("--data", files / data, "--reduce", "macs=0.4", *options),
    )


def bias(model):
    return keras.ops.convert_to_numpy(model.get_layer("head").bias)


@pytest.mark.parametrize("method", ["attenuation", "duplication"])
def test_a_method_trains_and_writes_the_compact_model(files, method, model):
    result = prune(files, "--method", method, "--epochs", 2)
    assert result.exit_code == 0, result.output
    compact = keras.saving.load_model(files / "small.keras")
    before, after = kprune.cost(model), kprune.cost(compact)
    assert 0.4 <= 1 - after.macs / before.macs < 0.6
    assert np.abs(bias(compact)).max() > 0  # as built, it is 0
    assert "small.keras" in result.stdout


def test_a_method_that_removes_nothing_is_not_asked_to(files, model):
    result = run(
        *("prune", files / "model.keras", files / "small.keras"),
        *("--data", files / "train.npz", "--epochs", 2),
        *("--method", "cross-filter"),
    )
    assert result.exit_code == 0, result.output
    written = keras.saving.load_model(files / "small.keras")
    assert written.count_params() == model.count_params()
    kernel = keras.ops.convert_to_numpy(written.get_layer("conv2").kernel)
    assert len(np.unique(np.abs(kernel))) <= 2  # blocks of 4 of 8 filters


@pytest.mark.slow
def test_parts_of_a_method_can_be_replaced(files, model):
    options = (
        "--method",
        "similarity",
        "--epochs",
        2,
        "--reduce",
        "params=0.6",
    )
    sizes = []
    for more in ((), ("--allocation", "uniform")):
        assert prune(files, *options, *more).exit_code == 0
        compact = keras.saving.load_model(files / "small.keras")
        sizes.append(prunable_sizes(compact))
    expected = kprune.prune(model, "l1", {"params": 0.6}, "uniform")
    assert sizes[0] != sizes[1] == prunable_sizes(kprune.rebuild(expected))


@pytest.mark.slow
def test_a_learning_rate_of_ones_own(files, model):
    # A schedule that has run out: nothing would be learnt.
    rate = keras.optimizers.schedules.PolynomialDecay(0.1, 1, 0.0)
    model.compile(keras.optimizers.SGD(rate), loss())
    model.optimizer.build(model.trainable_variables)
    model.optimizer.iterations.assign(10)
    model.save(files / "model.keras")
    options = ("--method", "similarity", "--epochs", 2)
    biases, told = [], []
    for more in ((), ("--learning-rate", 0.1)):
        result = prune(files, *options, *more)
        assert result.exit_code == 0
        told.append("try --learning-rate 0.001" in result.stderr)
        compact = keras.saving.load_model(files / "small.keras")
        biases.append(np.abs(bias(compact)).max())
    assert biases[0] == 0 < biases[1]
    assert told == [True, False]


def scaled(rate):
    return keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(rate))


def several(rate):
    made = keras.optimizers.SGD(rate), keras.optimizers.Adam(rate)
    return keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(made[0], {"head/.*": made[1]})
    )


@pytest.mark.parametrize("optimizer", [keras.optimizers.SGD, scaled, several])
def test_the_rate_is_set_where_the_optimizer_has_it(optimizer, model):
    if optimizer is several and not hasattr(keras.optimizers, "MultiOptimizer"):
        pytest.skip("this Keras has no MultiOptimizer")
    decay = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    model.compile(optimizer(decay), loss())
    compile_with_rate(model, 0.25)
    rates = [float(o.learning_rate) for o in base_optimizers(model.optimizer)]
    assert rates == [0.25] * (2 if optimizer is several else 1)
    assert type(model.optimizer) is type(optimizer(0.1))


def test_an_optimizer_without_a_rate_is_named(model):
    class Odd(keras.optimizers.SGD):
        def get_config(self):
            return {"name": "odd"}

    model.compile(Odd(), loss())
    with pytest.raises(ValueError, match="Odd, has no `learning_rate`"):
        compile_with_rate(model, 0.25)


def test_an_unknown_method_is_a_wrong_option(files):
    result = prune(files, "--method", "atenuation")
    assert result.exit_code == 2
    told = " ".join(result.stderr.replace("│", "").split())
    assert "Did you mean 'attenuation'" in told
    assert not (files / "small.keras").exists()


def test_a_method_needs_epochs(files):
    result = prune(files, "--method", "attenuation", "--epochs", 1)
    assert result.exit_code == 2
    assert "needs 2 epochs or more" in result.stderr
    assert not (files / "small.keras").exists()


def test_targets_and_a_loss_are_needed(files, model):
    result = prune(files, "--method", "attenuation", data="inputs.npz")
    assert result.exit_code == 1 and "needs targets" in result.stderr
    small_net(8).save(files / "model.keras")
    result = prune(files, "--method", "attenuation")
    assert result.exit_code == 1 and "without a loss" in result.stderr


def test_targets_that_the_loss_cannot_take_are_told_before_training(files):
    x, y = arrays(48)
    np.savez(files / "from_1.npz", x=x, y=y + 1)
    result = prune(files, "--method", "attenuation", data="from_1.npz")
    last = f"whole numbers from 0 to {y.max()}"
    assert_fails(
        result, f"`--data` holds targets from 1 to {y.max() + 1}", last
    )


@pytest.mark.parametrize("options", [
    ("--method", "attenuation"),
    ("--epochs", "3"),
    ("--learning-rate", "0.1"),
    ("--method", "attenuation", "--data", "x.npz", "--learning-rate", "0"),
])  # fmt: skip
def test_options_that_do_not_go_together(options):
    result = run("prune", "a.keras", "b.keras", *options)
    assert result.exit_code == 2
    assert "Usage:" in result.stderr


def test_recover_repairs_without_training(files, model):
    x = np.load(files / "inputs.npz")["x"]
    errors = {}
    ways = {
        "none": ("--criterion", "l1", "--recover", "none"),
        "reconstruct": ("--criterion", "l1", "--recover", "reconstruct"),
        "two": ("--criterion", "l1", "--recover", "merge,reconstruct"),
        "default": (),
    }
    for recover, options in ways.items():
        result = prune(files, *options, data="inputs.npz")
        assert result.exit_code == 0, result.output
        compact = keras.saving.load_model(files / "small.keras", compile=False)
        gap = model.predict(x, verbose=0) - compact.predict(x, verbose=0)
        errors[recover] = float((gap**2).mean())
    for recover in ("reconstruct", "two", "default"):
        assert errors[recover] < 0.5 * errors["none"]


def test_a_method_repairs_before_it_trains_on(files):
    options = ("--method", "similarity", "--epochs", 2, "--recover", "bn")
    result = prune(files, *options)
    assert result.exit_code == 0, result.output


def test_an_unknown_recovery_among_several_is_a_wrong_option(files):
    result = prune(files, "--recover", "bn,reconstrukt")
    assert result.exit_code == 2
    told = " ".join(result.stderr.replace("│", "").split())
    assert "Did you mean 'reconstruct'" in told


def test_a_model_of_one_batch_size_is_not_trained(files):
    inputs = keras.Input(batch_shape=(4, 8, 8, 1))
    x = keras.layers.Conv2D(4, 3)(inputs)
    x = keras.layers.Flatten()(keras.ops.reshape(x, (4, 36, 4)))
    model = keras.Model(inputs, keras.layers.Dense(3)(x))
    model.compile("sgd", loss())
    model.save(files / "model.keras")
    result = prune(files, "--method", "attenuation", "--epochs", 2)
    assert_fails(result, "only batches of 4 samples", "Build it with")
