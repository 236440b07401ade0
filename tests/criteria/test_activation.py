from __future__ import annotations

import keras
import numpy as np
import pytest

import kprune
from kprune import criteria


@pytest.fixture
def plain():
    inputs = keras.Input((6, 6, 2), name="images")
    x = keras.layers.Conv2D(5, 3, name="conv", padding="same")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.ReLU(name="relu")(x)
    a = keras.layers.Conv2D(4, 3, strides=2, name="left", activation="relu")(x)
    b = keras.layers.AveragePooling2D(2, name="pool")(x)
    b = keras.layers.Conv2D(3, 1, name="right", activation="tanh")(b)
    a = keras.layers.Flatten(name="flat")(a)
    b = keras.layers.GlobalAveragePooling2D(name="gap")(b)
    x = keras.layers.Concatenate(name="both")([a, b])
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(x))
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=w.shape) for w in model.weights])
    norm = model.get_layer("norm")
    norm.moving_variance.assign(rng.uniform(0.5, 2, 5))
    return model


def images(count=70):
    return (
        np.random.default_rng(1).normal(size=(count, 6, 6, 2)).astype("float32")
    )


def outputs(model, x, *names):
    """Outputs of layers of the plain model: an independent way to see them."""
    tensors = [model.get_layer(n).output for n in names]
    return keras.Model(model.inputs, tensors).predict(x, verbose=0)


def score(criterion, plain, data):
    masked = kprune.wrap(plain)
    result = kprune.Session(masked, data).score(criterion)
    assert all(
        w.observer is None for w in masked.layers if hasattr(w, "observer")
    )
    return result


def expectation(plain, x, statistic):
    relu, pool, left, right = outputs(plain, x, "relu", "pool", "left", "gap")
    maps = (0, 1, 2)
    return {
        "conv": (statistic(relu).mean(maps) + statistic(pool).mean(maps)) / 2,
        "left": statistic(left).mean(maps),
        "right": statistic(right).mean(0),
    }


@pytest.mark.parametrize(
    ("name", "statistic"),
    [("activation", np.abs), ("apoz", lambda a: (a != 0).astype("float64"))],
)
def test_scores_are_means_over_what_the_consumers_read(plain, name, statistic):
    x = images()
    result = score(name, plain, x)
    expected = expectation(plain, x, statistic)
    assert set(result) == set(expected)
    for group, values in expected.items():
        np.testing.assert_allclose(result[group], values, rtol=1e-5)


def test_apoz_is_the_share_of_nonzero_activations(plain):
    norm = plain.get_layer("norm")
    norm.gamma.assign(np.zeros(5))
    norm.beta.assign([1.0, -1.0, 1.0, -1.0, 1.0])
    result = score("apoz", plain, images(4))["conv"]
    assert result.tolist() == [1, 0, 1, 0, 1]


def test_batches_of_any_size_give_the_same(plain):
    x = images(10)
    whole = score("activation", plain, x)
    parts = score("activation", plain, (part for part in (x[:7], x[7:])))
    for group, values in whole.items():
        np.testing.assert_allclose(values, parts[group], rtol=1e-6)


def test_targets_are_ignored_and_steps_limit(plain):
    x = images(70)
    result = score(criteria.Activation(steps=1), plain, (x, np.zeros(70)))
    expected = score("activation", plain, x[:32])
    np.testing.assert_allclose(result["conv"], expected["conv"])


def test_masks_are_seen_downstream(plain):
    masked = kprune.wrap(plain)
    session = kprune.Session(masked, images(8))
    full = session.score("activation")
    kprune.set_masks(masked, {"conv": [1, 0, 0, 0, 0]})
    part = session.score("activation")
    assert not np.allclose(full["left"], part["left"])


def test_large_float16_activations_do_not_overflow(plain):
    keras.config.set_dtype_policy("mixed_float16")
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(3, kernel_initializer="ones", name="a"),
            keras.layers.Dense(1),
        ]
    )
    x = np.full((64, 4), 2000.0)
    np.testing.assert_allclose(score("activation", model, x)["a"], 8000.0)


def test_observers_are_taken_off_after_an_error(plain):
    class Broken(kprune.criteria.Activation):
        def statistic(self, activations):
            raise RuntimeError("broken")

    masked = kprune.wrap(plain)
    session = kprune.Session(masked, np.zeros((4, 6, 6, 2)))
    with pytest.raises(RuntimeError, match="broken"):
        session.score(Broken())
    wrappers = [w for w in masked.layers if hasattr(w, "observer")]
    assert wrappers
    assert all(wrapper.observer is None for wrapper in wrappers)


def test_separable_convolutions_read_with_their_depthwise_kernel():
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            keras.layers.Conv2D(4, 3, activation="relu", name="first"),
            keras.layers.SeparableConv2D(
                5, 3, depth_multiplier=2, name="separable"
            ),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(1),
        ]
    )
    x = images(8)
    expected = (
        np.asarray(outputs(model, x, "first"))
        .reshape(8, 4, 4, 4)
        .mean((0, 1, 2))
    )
    result = score("activation", model, x)["first"]
    np.testing.assert_allclose(result, expected, rtol=1e-5)


def test_attention_heads_are_scored_by_rescaled_lengths(caplog):
    inputs = keras.Input((5, 8))
    x = keras.layers.Dense(6, activation="relu", name="embed")(inputs)
    x = keras.layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    model = keras.Model(inputs, keras.layers.Dense(1)(x))
    data = np.random.default_rng(0).normal(size=(4, 5, 8))
    masked = kprune.wrap(model)
    groups = kprune.trace(masked).prunable
    with caplog.at_level("INFO", logger="kprune"):
        result = kprune.Session(masked, data).score("activation")
    hidden = [g for g in groups if g.name in caplog.text]
    assert hidden
    for group in hidden:
        lengths = np.linalg.norm(criteria.filters(group), axis=1)
        ratio = result[group.name] / lengths
        np.testing.assert_allclose(ratio, ratio[0])


def test_missing_data_says_what_to_pass(plain):
    with pytest.raises(ValueError, match="APoZ runs the model on samples"):
        score("apoz", plain, None)
