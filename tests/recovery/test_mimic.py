"""Training without labels, on small networks."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from harness import difference
from harness import outputs
from harness import randomise
from keras import layers
from models import convolutions
from models import dense_layers

import kprune
from kprune.recovery import Mimic
from kprune.recovery import recover
from kprune.recovery._augment import flip_and_crop
from kprune.recovery._augment import mix
from kprune.recovery._endings import endings
from kprune.recovery._pupils import input_scale
from kprune.recovery._pupils import logits


def images(count=96, size=8, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, size, size, 3)).astype("float32")


def chain(**options):
    keras.utils.set_random_seed(0)
    options = {"norms": 2, "padding": "same", **options}
    model = convolutions((8, 6), outputs=4, **options)
    randomise(model)
    norms = [layer for layer in model.layers if hasattr(layer, "momentum")]
    for norm in norms:
        norm.momentum = 0.0
    model(images(), training=True)  # statistics of such samples
    for norm in norms:
        norm.momentum = 0.99
    return model


def pruned(model, x, masks=None):
    """A masked model without some channels, its session and its past."""
    masked = kprune.wrap(model)
    session = kprune.Session(masked, x)
    before = session.snapshot()
    session.remove(masks or {"conv1": [1, 0, 1, 1, 0, 1, 1, 1]})
    return masked, session, before


def error(model, other, x):
    return float(np.mean((outputs(model, x)[0] - outputs(other, x)[0]) ** 2))


def short(**options):
    return Mimic(**{"steps": 12, "batch_size": 32, **options})


def test_it_comes_closer_and_the_result_can_be_rebuilt():
    model, x, fresh = chain(), images(), images(seed=1)
    masked, session, before = pruned(model, x)
    start = error(model, masked, fresh)
    recover(session, before, [short(steps=40)])
    assert error(model, masked, fresh) < 0.7 * start
    compact = kprune.rebuild(masked)
    assert difference(outputs(masked, fresh), outputs(compact, fresh)) < 1e-5
    assert compact.get_layer("conv1").filters == 6


def test_removed_weights_stay_0():
    masked, session, before = pruned(chain(), images())
    recover(session, before, [short()])
    gone = kprune.masks(masked)["conv1"] == 0
    assert gone.sum() == 2
    for name in ("conv1", "conv2"):
        kernel = kprune.graph.values.read(masked.get_layer(name).layer.kernel)
        axis = {"conv1": -1, "conv2": -2}[name]
        assert (kernel.take(np.flatnonzero(gone), axis=axis) == 0).all()


def test_it_keeps_what_it_had_where_training_makes_it_worse():
    model, x = chain(), images()
    masked, session, before = pruned(model, x)
    weights = masked.get_weights()
    recover(session, before, [short(learning_rate=1e4)])
    for a, b in zip(masked.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_same_seed_gives_the_same_weights():
    found = []
    for seed in (0, 0, 1):
        model = chain()
        masked, session, before = pruned(model, images())
        recover(session, before, [short(steps=40, seed=seed)])
        found.append(outputs(masked, images(8, seed=2))[0])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5, atol=1e-6)
    assert np.abs(found[0] - found[2]).max() > 1e-5


def test_alone_it_follows_a_refit():
    # At so high a rate nothing gets better, so that what went before stays.
    useless, x = short(learning_rate=1e6), images()
    found = {}
    for name, recovery in {
        "refitted": "reconstruct",
        "alone": useless,
        "listed": [useless],
        "pruned": [],
    }.items():
        masked, session, before = pruned(chain(), x)
        recover(session, before, recovery)
        found[name] = outputs(masked, images(8, seed=1))
    assert difference(found["alone"], found["refitted"]) < 1e-6
    assert difference(found["listed"], found["pruned"]) < 1e-6
    assert difference(found["listed"], found["alone"]) > 1e-3


def ending(last):
    x = inputs = keras.Input((6,))
    x = layers.Dense(8, activation="relu", name="hidden")(x)
    if last == "layer":
        x = layers.Dense(3, name="head")(x)
        x = layers.Softmax()(x)
    elif last == "nested":
        y = keras.Input((8,))
        z = layers.Dense(3, activation="softmax", name="head")(y)
        x = keras.Model(y, z)(x)
    else:
        x = layers.Dense(3, activation=last, name="head")(x)
    model = keras.Model(inputs, x)
    randomise(model)
    return model


@pytest.mark.parametrize("last", ["softmax", "sigmoid", "layer", "nested"])
def test_logits_are_learned_where_the_model_ends_in_probabilities(last):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(128, 6)).astype("float32")
    model = ending(last)
    masked, session, before = pruned(
        model, x, {"hidden": [1, 1, 0, 1, 1, 0, 1, 1]}
    )
    start = error(model, masked, x)
    recover(session, before, [short(steps=60, augment=None)])
    assert error(model, masked, x) < 0.7 * start
    # The activation is back.
    probabilities = outputs(masked, x)[0]
    assert (probabilities >= 0).all()
    assert (probabilities <= 1).all()


def assert_only_ends_change(model, x, scale, wanted):
    """Inside `logits`, the model computes `wanted`, and afterwards what it did."""
    before = outputs(model, x)
    with logits(model, scale) as bare:
        for found, value in zip(outputs(bare, x / scale), wanted, strict=True):
            np.testing.assert_allclose(found, value, rtol=1e-4, atol=1e-4)
    for found, value in zip(outputs(model, x), before, strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("again", ["read", "called"])
def test_an_activation_that_acts_inside_the_model_stays(again):
    inputs = keras.Input((5,))
    h = layers.Dense(6, activation="relu")(inputs)
    gate = layers.Dense(6, activation="sigmoid")
    g = gate(h)
    inside = g if again == "read" else gate(layers.Dense(6)(h))
    y = layers.Dense(3, activation="softmax", name="y")(h * inside)
    before = layers.Dense(3, name="before")(h * inside)
    model = keras.Model(inputs, [before, y, g])
    randomise(model)
    for a, b in zip(
        model.get_layer("before").weights,
        model.get_layer("y").weights,
        strict=True,
    ):
        a.assign(b)
    x = np.random.default_rng(0).normal(size=(16, 5)).astype("float32")
    plain, probabilities, g = outputs(model, x)
    assert np.abs(plain - probabilities).max() > 0.1
    assert_only_ends_change(model, x, 1.0, [plain, plain, g])
    assert endings(model) == ["linear", "softmax", "sigmoid"]


def timed(x):
    head = layers.Dense(4, activation="softmax", name="head")
    return layers.TimeDistributed(head)(layers.Reshape((2, 3))(x))


@pytest.mark.parametrize(
    "end",
    [
        lambda x: keras.ops.softmax(layers.Dense(4, name="head")(x)),
        lambda x: keras.ops.sigmoid(layers.Dense(4, name="head")(x)),
        lambda x: layers.Reshape((2, 2))(
            layers.Softmax()(layers.Dense(4, name="head")(x))
        ),
        lambda x: layers.Reshape((2, 2))(
            layers.Dense(4, activation="softmax", name="head")(x)
        ),
        lambda x: keras.ops.clip(
            layers.Dense(4, activation="sigmoid", name="head")(x), 1e-6, 1.0
        ),
        lambda x: layers.Activation("linear")(
            layers.Dense(4, activation="softmax", name="head")(x)
        ),
        timed,
    ],
)
def test_logits_are_found_behind_what_shapes_or_clips_them(end):
    inputs = keras.Input((6,))
    model = keras.Model(inputs, end(inputs))
    randomise(model)
    x = np.random.default_rng(0).normal(size=(16, 6)).astype("float32")
    kernel, bias = map(np.array, model.get_weights())
    wanted = x.reshape(-1, len(kernel)) @ kernel + bias
    before = outputs(model, x)
    with logits(model, 1.0) as bare:
        (found,) = outputs(bare, x)
    np.testing.assert_allclose(
        found.reshape(wanted.shape), wanted, rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(outputs(model, x)[0], before[0], rtol=1e-5)


def test_probabilities_that_are_read_behind_a_reshape_stay():
    inputs = keras.Input((6,))
    y = layers.Dense(4, activation="softmax")(inputs)
    shaped = layers.Reshape((2, 2))(y)
    model = keras.Model(inputs, [shaped, layers.Dense(3)(shaped)])
    randomise(model)
    x = np.random.default_rng(0).normal(size=(16, 6)).astype("float32")
    assert_only_ends_change(model, x, 1.0, outputs(model, x))


def test_logits_of_a_nested_model_are_not_clipped():
    y = keras.Input((6,))
    z = layers.Dense(4, activation="sigmoid")(y)
    inputs = keras.Input((6,))
    x = np.random.default_rng(0).normal(size=(16, 6)).astype("float32")
    clipped = keras.Model(y, keras.ops.clip(z, 1e-6, 1.0))
    shaped = keras.Model(y, layers.Reshape((2, 2))(z))
    for nested in (clipped, shaped):
        model = keras.Model(inputs, nested(inputs))
        randomise(model)
        kernel, bias = map(np.array, model.get_weights())
        plain = (x @ kernel + bias).reshape(-1, 2, 2)
        wanted = outputs(model, x) if nested is clipped else [plain]
        assert_only_ends_change(model, x, 1.0, wanted)


def test_inputs_of_a_layer_that_is_called_again_are_not_scaled():
    inputs = keras.Input((4,))
    layer = layers.Dense(4, name="twice")
    model = keras.Model(inputs, layers.Dense(3)(layer(layer(inputs))))
    randomise(model)
    x = 50 * np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
    assert input_scale(model, x) == 1.0
    once = dense_layers((4,), 4)
    scale = input_scale(once, x)
    assert 40 < scale < 60
    assert_only_ends_change(once, x, scale, outputs(once, x))


def test_frozen_layers_are_trained_and_stay_frozen():
    model, x = chain(), images()
    model.trainable = False
    masked, session, before = pruned(model, x)
    start = error(model, masked, x)
    recover(session, before, [short(steps=100)])
    assert error(model, masked, x) < start
    assert not masked.trainable
    assert not kprune.rebuild(masked).trainable_weights


@pytest.mark.parametrize("frozen", [False, True])
def test_attenuated_filters_are_trained_as_they_act(frozen):
    model, x = chain(), images()
    model.trainable = not frozen
    masked = kprune.wrap(model)
    kprune.set_masks(masked, {"conv2": np.linspace(0.2, 1.0, 6)})
    session = kprune.Session(masked, x)
    reference = outputs(masked, x)[0]
    before = session.snapshot()
    session.remove({"conv1": [1, 0, 1, 1, 0, 1, 1, 1]})
    start = np.mean((outputs(masked, x)[0] - reference) ** 2)
    recover(session, before, [short(steps=60)])
    assert np.mean((outputs(masked, x)[0] - reference) ** 2) < 0.8 * start
    assert masked.get_layer("conv2").trainable == (not frozen)
    factors = masked.get_layer("conv2").factor
    np.testing.assert_allclose(factors, np.linspace(0.2, 1.0, 6), rtol=1e-6)


def test_several_inputs_and_outputs():
    a, b = keras.Input((8, 8, 3), name="a"), keras.Input((5,), name="b")
    y = layers.Conv2D(8, 3, activation="relu", name="conv")(a)
    y = layers.GlobalAveragePooling2D()(y)
    y = layers.Concatenate()([y, layers.Dense(6, name="side")(b)])
    model = keras.Model(
        {"a": a, "b": b},
        [layers.Dense(2, name="one")(y), layers.Dense(3, name="two")(y)],
    )
    randomise(model)
    rng = np.random.default_rng(0)
    x = {"a": images(), "b": rng.normal(size=(96, 5)).astype("float32")}
    masked, session, before = pruned(
        model, x, {"conv": [1, 0, 1, 1, 0, 1, 1, 1]}
    )
    start = error(model, masked, x)
    recover(session, before, [short(steps=30)])
    assert error(model, masked, x) < start


@pytest.mark.slow
def test_the_models_own_compilation_stays():
    model = chain()
    model.compile("adam", "mse")
    x = images()
    masked = kprune.prune(model, "l1", {"macs": 0.4}, data=x, recover=[short()])
    assert masked.loss == "mse"
    assert isinstance(masked.optimizer, keras.optimizers.Adam)
    masked.fit(x, np.zeros((96, 4)), batch_size=32, verbose=0)


def seen(augment, x, count=3):
    """What a function that replaces an augmentation is given."""
    batches = []

    def watch(batch, rng):
        batches.append((batch.copy(), rng))
        return augment(batch, rng)

    _, session, before = pruned(chain(), x)
    recover(session, before, [short(steps=count, augment=watch, mixup=0.0)])
    return batches


def test_a_function_augments_and_held_out_samples_are_never_seen():
    x = images()
    batches = seen(lambda batch, rng: batch[:, ::-1], x, 6)
    assert len(batches) == 6
    assert isinstance(batches[0][1], np.random.Generator)
    held_out = x[7::8]
    for batch, _ in batches:
        assert batch.shape == (32, 8, 8, 3)
        gaps = np.abs(batch[:, None] - held_out[None]).max((2, 3, 4))
        assert gaps.min() > 1e-3


@pytest.mark.parametrize("nested", [False, True])
def test_a_layer_augments(nested):
    layer = layers.GaussianNoise(0.1, seed=1)
    augment = keras.Sequential([layer]) if nested else layer
    model, x = chain(), images()
    masked, session, before = pruned(model, x)
    start = error(model, masked, x)
    recover(session, before, [short(steps=30, augment=augment)])
    assert error(model, masked, x) < start


def test_flips_and_crops_move_pixels_within_an_image():
    x = np.arange(16 * 16, dtype="float32").reshape(1, 16, 16, 1)
    x = np.repeat(x, 64, axis=0)
    moved = flip_and_crop(x, np.random.default_rng(0))
    assert moved.shape == x.shape
    flipped = 0
    for image in moved[..., 0]:
        steps = np.diff(image, axis=1)[:, 4:12]
        assert (np.abs(steps) == 1).all()
        flipped += steps[0, 0] < 0
        # The middle row is one of those that a shift by 2 can bring there.
        assert abs(image[8].min() // 16 - 8) <= 2
    assert 16 < flipped < 48
    first = image_rows(moved)
    assert set(first) == {6, 7, 8, 9, 10}


def image_rows(moved):
    return [int(image[8].min() // 16) for image in moved[..., 0]]


def test_mixing_is_linear_and_leaves_whole_numbers_alone():
    rng = np.random.default_rng(0)
    x = {"a": rng.normal(size=(20, 4)), "b": rng.normal(size=(20, 3))}
    mixed = mix(x, np.random.default_rng(1))
    for n in range(20):
        weights = [
            (i, w)
            for i in range(20)
            for w in [_weight(mixed["a"][n], x["a"][n], x["a"][i])]
            if w is not None
        ]
        assert any(
            np.allclose(
                mixed["b"][n], w * x["b"][n] + (1 - w) * x["b"][i], atol=1e-9
            )
            for i, w in weights
        )
    tokens = np.arange(12).reshape(4, 3)
    assert mix(tokens, rng) is tokens
    assert mix(np.zeros((4, 2), "uint8"), rng).dtype == np.float32


def _weight(mixed, own, other):
    """The weight of `own` in `mixed`, if there is one."""
    gap = own - other
    if not gap.any():
        return 1.0 if np.allclose(mixed, own) else None
    weight = float((mixed - other) @ gap / (gap @ gap))
    fits = np.allclose(mixed, weight * own + (1 - weight) * other, atol=1e-9)
    return weight if fits and 0 <= weight <= 1 else None


def test_errors_say_what_is_wrong():
    model, x = dense_layers((8,), 6), np.zeros((10, 6), "float32")
    masked, session, before = pruned(model, x, {"d0": [0, 0, 1, 1, 1, 1, 1, 1]})
    weights = masked.get_weights()
    with pytest.raises(ValueError, match="Mimic needs at least 16 samples"):
        recover(session, before, "mimic")
    for a, b in zip(masked.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="learning_rate"):
        Mimic(learning_rate=0)
    with pytest.raises(ValueError, match="Recovery Mimic runs the model"):
        kprune.prune(dense_layers((8,), 6), recover="mimic")
    session = kprune.Session(masked, np.zeros((32, 6), "float32"))
    with pytest.raises(TypeError, match="as `augment`"):
        recover(session, before, [Mimic(augment="flip")])
