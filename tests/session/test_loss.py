from __future__ import annotations

import keras
import numpy as np
import pytest
import zoo
from fitting import arrays
from fitting import loss
from fitting import small_net
from harness import random_inputs
from harness import random_masks
from harness import randomise

import kprune
from kprune import Session


def compiled(model=None, **options):
    model = small_net(6) if model is None else model
    randomise(model)
    options.setdefault("loss", loss())
    # Elsewhere slow to compile.
    options["jit_compile"] = keras.config.backend() == "jax"
    model.compile(keras.optimizers.Adam(0.01), **options)
    return kprune.wrap(model)


def cross_entropy(model, x, y, weight=None):
    """By hand, from the logits of a plain prediction."""
    logits = np.asarray(
        keras.ops.convert_to_numpy(model(x, training=False)), "float64"
    )
    shifted = logits - logits.max(1, keepdims=True)
    each = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(y)), y]
    return float(np.mean(each if weight is None else each * weight))


def test_it_is_the_loss_of_the_rebuilt_model_whatever_the_masks():
    masked = compiled()
    x, y = arrays(37)
    session = Session(masked, (x, y))
    assert session.loss() == pytest.approx(
        cross_entropy(masked, x, y), rel=1e-5
    )
    for seed in range(2):
        kprune.set_masks(masked, random_masks(kprune.trace(masked), seed))
        expected = cross_entropy(kprune.rebuild(masked), x, y)
        assert session.loss() == pytest.approx(expected, rel=1e-5)


def test_a_trial_is_the_loss_without_the_channels_and_changes_nothing():
    masked = compiled()
    x, y = arrays(30)
    session = Session(masked, (x, y))
    whole = session.loss()
    vector = np.array([1, 0, 1, 1, 0, 1])
    trial = session.loss({"conv3": vector})
    assert session.loss() == whole
    kprune.set_masks(masked, {"conv3": vector})
    expected = cross_entropy(kprune.rebuild(masked), x, y)
    assert trial == pytest.approx(expected, rel=1e-5)
    assert abs(trial - whole) > 1e-5


def test_weights_of_samples_count_and_batches_of_unequal_size():
    masked = compiled()
    x, y = arrays(21)
    weight = np.linspace(0, 2, 21).astype("float32")
    expected = cross_entropy(masked, x, y, weight)
    got = Session(masked, (x, y, weight)).loss()
    assert got == pytest.approx(expected, rel=1e-5)
    parts = [(x[a:b], y[a:b], weight[a:b]) for a, b in [(0, 8), (8, 21)]]
    got = Session(masked, iter(parts)).loss()
    assert got == pytest.approx(expected, rel=1e-5)


def test_batches_that_cannot_be_put_together_are_used_as_they_are():
    x = inputs = keras.Input((None, 3))
    x = keras.layers.Dense(4, activation="relu", name="hidden")(x)
    x = keras.layers.GlobalAveragePooling1D()(x)
    masked = compiled(keras.Model(inputs, keras.layers.Dense(3)(x)))
    rng = np.random.default_rng(0)
    parts = [(rng.normal(size=(4, n, 3)), np.arange(4) % 3) for n in (2, 5)]
    expected = np.mean([cross_entropy(masked, *part) for part in parts])
    got = Session(masked, iter(parts)).loss()
    assert got == pytest.approx(expected, rel=1e-5)


def test_a_draw_of_samples_is_the_same_for_the_same_seed():
    masked = compiled()
    session = Session(masked, arrays(40))
    losses = [session.loss(samples=8, seed=n) for n in (0, 1, 0)]
    assert losses[0] == losses[2] != losses[1]
    drawn = [x for x, _, _ in session.samples.sample(8, 1).batches()]
    assert sum(map(len, drawn)) == 8


def test_penalties_and_added_losses_are_left_out():
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(
        4, 3, kernel_regularizer="l2", activity_regularizer="l2", name="conv"
    )(inputs)
    x = keras.layers.Dense(3)(keras.layers.Flatten()(x))
    masked = compiled(keras.Model(inputs, x))
    x, y = arrays(10)
    expected = cross_entropy(masked, x, y)
    assert Session(masked, (x, y)).loss() == pytest.approx(expected, rel=1e-5)
    assert masked.evaluate(x, y, verbose=0) > expected * 1.001


def two_outputs():
    """A model with two weighted losses, and samples of it."""
    inputs = keras.Input((6,))
    x = keras.layers.Dense(5, activation="relu", name="hidden")(inputs)
    outputs = {
        "size": keras.layers.Dense(1, name="size")(x),
        "kind": keras.layers.Dense(3, name="kind")(x),
    }
    masked = compiled(
        keras.Model(inputs, outputs),
        loss={"size": "mse", "kind": loss()},
        loss_weights={"size": 0.5, "kind": 2.0},
    )
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 6)).astype("float32")
    y = {"size": rng.normal(size=(12, 1)), "kind": rng.integers(0, 3, 12)}
    return masked, x, y


def test_losses_of_several_outputs_are_weighted():
    masked, x, y = two_outputs()
    got = masked(x, training=False)
    size = np.mean((keras.ops.convert_to_numpy(got["size"]) - y["size"]) ** 2)
    kind = cross_entropy(lambda *a, **k: got["kind"], x, y["kind"])
    session = Session(masked, (x, y))
    assert session.loss() == pytest.approx(0.5 * size + 2.0 * kind, rel=1e-5)


def assert_losses_agree(session, seed=0, rtol=1e-6):
    """Losses of many trials at once, against one at a time."""
    trials = [{}, random_masks(session.graph, seed)]
    for group in session.groups:
        mask = np.arange(group.size) != seed % group.size
        trials += [{group.name: mask}, {**trials[1], group.name: mask}]
    got = session.losses(trials)
    expected = [session.loss(masks) for masks in trials]
    np.testing.assert_allclose(got, expected, rtol=rtol)
    assert len(set(expected)) > 2


@pytest.mark.parametrize(
    "build",
    [zoo.projection_resnet, zoo.inception, zoo.option_a_resnet],
    ids=lambda build: build.__name__,
)
def test_losses_are_those_of_one_trial_after_another(build):
    masked = compiled(build())
    x = random_inputs(masked, batch=9)
    y = np.arange(9) % masked.output_shape[-1]
    assert_losses_agree(Session(masked, (x, y)))


def test_losses_with_a_base_that_all_trials_share():
    masked = compiled()
    session = Session(masked, arrays(30))
    first = session.groups[0]
    gone = np.arange(first.size) > 1
    trials = [
        {first.name: gone, g.name: np.arange(g.size) != 1}
        for g in session.groups
    ]
    expected = [session.loss(masks, 16, 3) for masks in trials]
    got = session.losses(trials, 16, 3)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert session.losses([]) == []
    assert session.losses(trials[:1]) == [session.loss(trials[0])]


def test_losses_of_weighted_samples_and_of_unequal_batches():
    masked = compiled()
    x, y = arrays(21)
    weight = np.linspace(0, 2, 21).astype("float32")
    assert_losses_agree(Session(masked, (x, y, weight)))
    parts = [(x[a:b], y[a:b], weight[a:b]) for a, b in [(0, 8), (8, 21)]]
    assert_losses_agree(Session(masked, iter(parts)), seed=1)


def test_losses_of_many_trials_with_several_outputs():
    masked, x, y = two_outputs()
    assert_losses_agree(Session(masked, (x, y)))


def test_losses_with_masks_of_padding():
    inputs = keras.Input((7,), dtype="int32")
    x = keras.layers.Embedding(11, 6, mask_zero=True)(inputs)
    x = keras.layers.Dense(5, activation="relu", name="hidden")(x)
    x = keras.layers.Dense(4, activation="relu", name="second")(x)
    x = keras.layers.GlobalAveragePooling1D()(x)
    masked = compiled(keras.Model(inputs, keras.layers.Dense(3)(x)))
    rng = np.random.default_rng(0)
    x = rng.integers(0, 3, (12, 7)).astype("int32")
    assert_losses_agree(Session(masked, (x, np.arange(12) % 3)))


class Watcher(keras.layers.Layer):
    """Counts its own calls, in Python (when traced) and in a variable."""

    def __init__(self, **options):
        super().__init__(**options)
        self.traces = 0

    def build(self, shape):
        self.calls = self.add_weight(
            shape=(), initializer="zeros", trainable=False
        )
        self.metric = keras.metrics.Mean(name="seen")

    def call(self, x):
        self.traces += 1
        self.calls.assign(self.calls + 1)
        self.metric.update_state(keras.ops.mean(x))
        return x


def watched():
    model = small_net(6)
    model.get_layer("norm1").trainable = False
    return compiled(
        keras.Model(model.input, Watcher(name="watcher")(model.output)),
        metrics=["accuracy"],
    )


@pytest.mark.not_on("torch", reason="computes eagerly, so traces every call")
def test_it_is_traced_once_for_all_masks():
    masked = watched()
    session = Session(masked, arrays(40))
    session.loss()
    traces = masked.get_layer("watcher").traces
    losses = {session.loss({"conv3": np.arange(6) != n}) for n in range(6)}
    kprune.set_masks(masked, {"conv3": [1, 1, 1, 0, 0, 0]})
    losses.add(session.loss())
    assert len(losses) == 7
    assert masked.get_layer("watcher").traces == traces


def test_nothing_of_the_model_changes():
    masked = watched()
    x, y = arrays(12)
    masked.train_on_batch(x, y)
    variables = [
        *masked.variables,
        *masked.optimizer.variables,
        *masked.metrics_variables,
    ]
    before = [np.array(keras.ops.convert_to_numpy(v)) for v in variables]
    flags = [v.trainable for v in variables]
    functions = (masked.train_function, masked.test_function)
    session = Session(masked, (x, y))
    session.loss({"conv3": [1, 1, 1, 0, 0, 0]})
    session.losses([{}, {"conv3": [1, 1, 1, 0, 0, 0]}])
    for variable, value in zip(variables, before, strict=True):
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(variable), value
        )
    assert [v.trainable for v in variables] == flags
    assert (masked.train_function, masked.test_function) == functions
    masked.train_on_batch(x, y)  # and it goes on training


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float64"])
def test_precision_is_that_of_the_model(policy):
    keras.config.set_dtype_policy(policy)
    try:
        masked = compiled()
    finally:
        keras.config.set_dtype_policy("float32")
    x, y = arrays(16)
    expected = cross_entropy(masked, x.astype(masked.input.dtype), y)
    # Keras computes losses in float32.
    tolerance = {"mixed_bfloat16": 1e-2, "float64": 1e-6}[policy]
    session = Session(masked, (x, y))
    assert session.loss() == pytest.approx(expected, rel=tolerance)
    assert_losses_agree(session, rtol=tolerance)


def test_what_is_missing_is_said():
    x, y = arrays(8)
    with pytest.raises(ValueError, match=r"Pass \(x, y\)"):
        Session(compiled(), x).loss()
    with pytest.raises(ValueError, match="as `data=`"):
        Session(compiled()).loss()
    with pytest.raises(ValueError, match=r"model.compile\(loss="):
        Session(kprune.wrap(small_net(6)), (x, y)).loss()
