from __future__ import annotations

import keras
import numpy as np
import pytest
from backends import gradients
from fitting import loss

import kprune
from kprune import criteria
from kprune.session.gradients import GradientProbe


def small_net(dropout=0.5):
    inputs = keras.Input((6, 6, 2))
    x = keras.layers.Conv2D(
        5, 3, name="conv", kernel_regularizer=keras.regularizers.L2(0.1)
    )(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.ReLU()(x)
    x = keras.layers.Dropout(dropout)(x)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(4, activation="tanh", name="hidden")(x)
    model = keras.Model(inputs, keras.layers.Dense(3, name="head")(x))
    rng = np.random.default_rng(1)
    model.set_weights([rng.normal(0.1, 0.3, w.shape) for w in model.weights])
    model.get_layer("norm").moving_variance.assign(rng.uniform(0.5, 2, 5))
    return model


def samples(count=10):
    rng = np.random.default_rng(2)
    return rng.normal(size=(count, 6, 6, 2)), rng.integers(0, 3, count)


@pytest.fixture
def masked():
    model = kprune.wrap(small_net())
    model.compile(keras.optimizers.Adam(0.01), loss(), metrics=["accuracy"])
    return model


def taylor(model, data, **options):
    criterion = criteria.Taylor(**options)
    return kprune.Session(model, data).score(criterion)


def reference(model, batches):
    """Sums of weight * gradient per channel, by hand and by the backend."""
    totals = []
    for x, y in batches:
        layers = {
            layer.layer.name: layer.layer for layer in kprune_wrappers(model)
        }
        conv, norm = layers["conv"], layers["norm"]
        hidden, head = layers["hidden"], layers["head"]
        weights = [
            conv.kernel,
            conv.bias,
            norm.gamma,
            norm.beta,
            hidden.kernel,
            hidden.bias,
            head.kernel,
        ]
        slopes = gradients(
            lambda x=x, y=y: loss()(y, model(x, training=False)),
            weights,
        )
        p = [w.numpy() * g for w, g in zip(weights, slopes, strict=True)]
        # Flatten turns (4, 4, 5) maps into rows of the next kernel.
        rows = p[4].reshape(16, 5, 4)
        totals.append(
            (
                p[0].sum((0, 1, 2)) + p[1] + p[2] + p[3] + rows.sum((0, 2)),
                p[4].sum(0) + p[5] + p[6].sum(1),
            )
        )
    conv, hidden = zip(*totals, strict=True)
    return {
        "conv": np.mean(np.square(conv), axis=0),
        "hidden": np.mean(np.square(hidden), axis=0),
    }


def kprune_wrappers(model):
    return [w for w in model.layers if isinstance(w, kprune.FilterMask)]


def test_scores_equal_the_backends_own_gradients_of_all_coupled_weights(masked):
    x, y = samples()
    batches = [(x[:4], y[:4]), (x[4:8], y[4:8]), (x[8:], y[8:])]
    expected = reference(masked, batches)
    result = taylor(masked, iter(batches))
    for name, values in expected.items():
        assert (values > 1e-5).all()
        np.testing.assert_allclose(result[name], values, rtol=1e-4)


def test_filters_alone_and_means_over_batches(masked):
    x, y = samples()
    batches = [(x[:5], y[:5]), (x[5:], y[5:])]
    conv = masked.get_layer("conv").layer
    weights = [conv.kernel, conv.bias]
    changes = []
    for each in batches:
        slopes = gradients(
            lambda e=each: loss()(e[1], masked(e[0], training=False)), weights
        )
        kernel, bias = (
            keras.ops.convert_to_numpy(w) * g
            for w, g in zip(weights, slopes, strict=True)
        )
        changes.append(kernel.sum((0, 1, 2)) + bias)
    found = taylor(masked, iter(batches), filters=True)["conv"]
    np.testing.assert_allclose(found, np.mean(np.square(changes), 0), rtol=1e-3)
    found = taylor(masked, iter(batches), filters=True, averaged=True)["conv"]
    np.testing.assert_allclose(found, np.mean(changes, 0) ** 2, rtol=1e-3)


def test_steps_limit_the_batches(masked):
    x, y = samples()
    batches = [(x[:4], y[:4]), (x[4:8], y[4:8])]
    expected = reference(masked, batches[:1])["conv"]
    result = taylor(masked, iter(batches), steps=1)["conv"]
    np.testing.assert_allclose(result, expected, rtol=1e-4)


def test_sample_weights_count(masked):
    x, y = samples()
    weight = np.zeros(10)
    weight[:4] = 2.5  # the mean over 10 of 4 samples weighted 10 / 4
    result = taylor(masked, (x, y, weight))["conv"]
    expected = taylor(masked, (x[:4], y[:4]))["conv"]
    np.testing.assert_allclose(result, expected, rtol=1e-4)


def test_removed_channels_score_zero_and_do_not_disturb(masked):
    kprune.set_masks(masked, {"conv": [1, 0, 1, 1, 0]})
    result = taylor(masked, samples())
    assert (result["conv"][[1, 4]] == 0).all()
    assert (result["conv"][[0, 2, 3]] > 0).all()


def test_nothing_of_the_model_changes(masked):
    x, y = samples()
    masked.train_on_batch(x, y)
    before = [v.numpy() for v in masked.variables]
    optimizer = [v.numpy() for v in masked.optimizer.variables]
    metrics = [v.numpy() for v in masked.metrics_variables]
    flags = [v.trainable for v in masked.variables]
    function = masked.train_function
    taylor(masked, (x, y))
    for old, variable in zip(before, masked.variables, strict=True):
        np.testing.assert_equal(variable.numpy(), old)
    for old, variable in zip(
        optimizer, masked.optimizer.variables, strict=True
    ):
        np.testing.assert_equal(variable.numpy(), old)
    for old, variable in zip(metrics, masked.metrics_variables, strict=True):
        np.testing.assert_equal(variable.numpy(), old)
    assert [v.trainable for v in masked.variables] == flags
    assert masked.train_function is function


def test_training_goes_on_as_if_it_had_not_been_scored():
    x, y = samples()
    results = []
    for score in (False, True):
        keras.utils.set_random_seed(0)
        model = kprune.wrap(small_net())
        model.compile(keras.optimizers.Adam(0.01), loss())
        model.train_on_batch(x, y)
        if score:
            taylor(model, (x, y))
        model.train_on_batch(x, y)
        results.append(model.get_weights())
    for plain, scored in zip(*results, strict=True):
        np.testing.assert_array_equal(plain, scored)


def test_frozen_layers_are_scored_too_and_stay_frozen(masked):
    expected = taylor(masked, samples())
    masked.get_layer("conv").trainable = False
    masked.get_layer("norm").layer.trainable = False
    result = taylor(masked, samples())
    np.testing.assert_allclose(result["conv"], expected["conv"], rtol=1e-6)
    assert not masked.get_layer("conv").trainable
    assert not masked.get_layer("conv").layer.trainable
    assert not masked.get_layer("norm").layer.trainable
    assert masked.get_layer("hidden").layer.trainable
    assert len(masked.trainable_variables) == 4


def test_a_second_scoring_sees_new_weights_and_reuses_the_compiled_step(masked):
    session = kprune.Session(masked, samples())
    first = session.score("taylor")
    probe = session._gradient_probe
    kernel = masked.get_layer("head").layer.kernel
    kernel.assign(kernel.numpy() * 2)
    second = session.score(criteria.Taylor())
    assert probe is not None and session._gradient_probe is probe
    assert not np.allclose(first["hidden"], second["hidden"])
    np.testing.assert_allclose(
        second["hidden"], taylor(masked, samples())["hidden"]
    )


def test_compiling_anew_changes_the_loss_that_is_used(masked):
    x, y = samples()
    targets = np.eye(3)[y]
    masked.compile(
        "sgd", keras.losses.CategoricalCrossentropy(from_logits=True)
    )
    session = kprune.Session(masked, (x, targets))
    session.score("taylor")
    masked.compile("sgd", keras.losses.MeanSquaredError())
    result = session.score("taylor")
    expected = taylor(masked, (x, targets))
    np.testing.assert_allclose(result["conv"], expected["conv"])


def test_several_outputs_with_losses_by_name_and_weights():
    inputs = keras.Input((4,))
    shared = keras.layers.Dense(6, activation="relu", name="shared")(inputs)
    a = keras.layers.Dense(1, name="a")(shared)
    b = keras.layers.Dense(2, name="b")(shared)
    model = kprune.wrap(keras.Model(inputs, {"a": a, "b": b}))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 4))
    targets = {"a": rng.normal(size=(8, 1)), "b": rng.normal(size=(8, 2))}

    def score(weights):
        losses = {"a": "mse", "b": "mae"}
        model.compile("sgd", loss=losses, loss_weights=weights)
        return taylor(model, (x, targets))["shared"]

    only_a = score({"a": 1.0, "b": 0.0})
    np.testing.assert_allclose(
        score({"a": 3.0, "b": 0.0}), 9 * only_a, rtol=1e-5
    )
    assert not np.allclose(score({"a": 1.0, "b": 1.0}), only_a)


def test_sequential_and_unsupported_constraints_are_fine():
    model = kprune.wrap(
        keras.Sequential(
            [
                keras.Input((3,)),
                keras.layers.Dense(
                    4, kernel_constraint=keras.constraints.MaxNorm(0.1)
                ),
                keras.layers.Dense(1),
            ]
        )
    )
    model.compile("sgd", "mse")
    before = model.get_weights()
    taylor(model, (np.ones((2, 3)), np.ones((2, 1))))
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_gives_about_the_same_scores(policy):
    expected = None
    for name in ("float32", policy):
        keras.config.set_dtype_policy(name)
        model = kprune.wrap(small_net())
        model.compile("sgd", loss())
        result = taylor(model, samples())["conv"]
        if expected is None:
            expected = result
    np.testing.assert_allclose(
        result, expected, rtol=0.1, atol=0.02 * expected.max()
    )


def test_float16_gradients_that_overflow_are_taken_again_with_a_smaller_scale():
    keras.config.set_dtype_policy("mixed_float16")
    model = kprune.wrap(small_net())
    model.compile(
        "sgd", lambda y_true, y_pred: 1e3 * keras.ops.mean(y_pred, axis=-1)
    )
    result = taylor(model, samples())["conv"]
    assert np.isfinite(result).all()
    assert result.max() > 0


def test_gradients_of_a_probe_are_those_of_the_mean_loss(masked):
    x, y = samples()
    found = GradientProbe(masked)(x, y)
    kernel = masked.get_layer("head").layer.kernel
    (expected,) = gradients(
        lambda: loss()(y, masked(x, training=False)), [kernel]
    )
    np.testing.assert_allclose(
        found[id(kernel)], expected, rtol=1e-4, atol=1e-7
    )


def test_an_uncompiled_model_says_what_to_call():
    model = kprune.wrap(small_net())
    with pytest.raises(
        ValueError, match=r"Call model.compile\(loss=...\) first"
    ):
        taylor(model, samples())
    model.compile("sgd")
    with pytest.raises(ValueError, match="not compiled with one"):
        taylor(model, samples())


def test_missing_data_or_targets_say_what_to_pass(masked):
    with pytest.raises(ValueError, match="Taylor measures the loss on samples"):
        taylor(masked, None)
    with pytest.raises(ValueError, match=r"Pass \(x, y\)"):
        taylor(masked, samples()[0])
