"""Layers and models that are called more than once, or cut out of others."""

import keras
import pytest
from harness import assert_exact
from harness import floatx
from harness import run_pruning_test
from keras import layers
from keras import ops
from models import pooled_model

import kprune


def siamese():
    left, right = keras.Input((6, 6, 3)), keras.Input((6, 6, 3))
    conv = layers.Conv2D(6, 3, activation="sigmoid", name="conv")
    dense = layers.Dense(5, name="embed")
    a, b = (
        dense(layers.GlobalAveragePooling2D()(conv(x))) for x in (left, right)
    )
    return pooled_model([left, right], ops.abs(a - b))


def one_layer_at_several_positions():
    x = inputs = keras.Input((6, 6, 3))
    conv = layers.Conv2D(6, 3, padding="same", activation="tanh", name="twice")
    norm = layers.BatchNormalization(name="norm")
    slope = layers.PReLU(shared_axes=[1, 2], name="slope")
    x = layers.Conv2D(6, 1, name="stem")(x)
    x = slope(norm(conv(x)))
    x = slope(norm(conv(x)))
    flat = layers.Reshape((-1, 6))
    y = layers.Dense(4, name="side")(flat(x))
    z = layers.Dense(4, name="other")(flat(conv(x)))
    return pooled_model(inputs, layers.Add()([y, z])[:, :, None, :])


def different_origins():
    """Called on channels that stay and on channels that could go: all stay."""
    x = inputs = keras.Input((6,))
    dense = layers.Dense(6, name="dense")
    norm = layers.BatchNormalization(name="norm")
    rnn = layers.GRU(4, name="rnn")
    x = norm(dense(norm(inputs)))
    steps = layers.Reshape((1, 6))
    free = layers.Dense(4, name="free")(inputs)
    y = rnn(steps(inputs)) + rnn(steps(x), initial_state=free)
    return pooled_model(
        inputs, layers.Dense(5, name="last")(layers.Concatenate()([x, y]))
    )


def backbone():
    x = inputs = keras.Input((None, None, 3), name="image")
    x = low = layers.Conv2D(5, 3, activation="sigmoid", name="low")(x)
    x = layers.Conv2D(6, 3, activation="relu", name="high")(x)
    return keras.Model(inputs, {"low": low, "high": x}, name="backbone")


def model_on_two_sizes():
    """A submodel with several outputs, on images of two sizes."""
    inputs = keras.Input((10, 10, 3))
    model = backbone()
    large, small = model(inputs), model(layers.AveragePooling2D(2)(inputs))
    x = layers.Concatenate()(
        [
            layers.Flatten()(large["high"]),
            layers.Flatten()(small["high"]),
            layers.GlobalMaxPooling2D()(large["low"]),
        ]
    )
    return pooled_model(inputs, x)


def chained_model():
    """A model that reads its own output, Sequential models inside."""
    block = keras.Sequential(
        [
            keras.Input((6, 6, 8)),
            layers.Conv2D(5, 3, padding="same", name="squeeze"),
            keras.Sequential(
                [layers.BatchNormalization(), layers.ReLU()], name="inner"
            ),
            layers.Conv2D(8, 1, name="expand"),
        ],
        name="block",
    )
    x = inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(8, 1, name="stem")(x)
    x = layers.Add()([x, block(x)])
    x = layers.Add()([x, block(x)])
    return pooled_model(inputs, x)


def extractor():
    """Two levels cut from a bigger model, which has layers of its own."""
    x = inputs = keras.Input((8, 8, 3))
    for n in range(3):
        x = layers.Conv2D(4 + n, 3, activation="sigmoid", name=f"c{n}")(x)
    whole = keras.Model(inputs, layers.Dense(7)(layers.Flatten()(x)))
    levels = [whole.get_layer(f"c{n}").output for n in range(2)]
    cut = keras.Model(whole.input, levels, name="cut")
    low, high = cut(new := keras.Input((8, 8, 3)))
    x = layers.Concatenate()([low[:, :4, :4], high])
    return pooled_model(new, layers.Conv2D(5, 1, name="mix")(x))


def unknown_axis_inside():
    """The submodel does not know how many channels its second axis has."""
    token = keras.Input((None, 4))
    body = keras.Model(token, layers.Dense(4, name="inside")(token))
    x = inputs = keras.Input((4, 3))
    x = layers.Dense(6, name="before")(x)
    x = body(layers.Permute((2, 1))(x))
    return pooled_model(
        inputs, layers.Flatten()(layers.Dense(5, name="after")(x))
    )


def zero_in_one_call_only():
    """A sum inside may rely on zeros only if every call brings them."""
    given = keras.Input((6,))
    body = keras.Model(given, given * ops.sum(given, axis=-1, keepdims=True))
    inputs = keras.Input((4,))
    a = layers.Dense(6, activation="relu", name="zero")(inputs)
    b = layers.Dense(6, activation="sigmoid", name="not_zero")(inputs)
    c = layers.Dense(5, name="free")(inputs)
    return pooled_model(inputs, layers.Concatenate()([body(a), body(b), c]))


CASES = {
    siamese: {"conv": 6, "embed": 5},
    one_layer_at_several_positions: {"stem": 6, "other": 4},
    different_origins: {"last": 5},
    model_on_two_sizes: {"low": 5, "high": 6},
    chained_model: {"stem": 8, "squeeze": 5},
    extractor: {"c0": 4, "c1": 5, "mix": 5},
    unknown_axis_inside: {"inside": 4, "after": 5},
    zero_in_one_call_only: {"free": 5},
}


@pytest.mark.parametrize("build", CASES, ids=lambda f: f.__name__)
def test_sharing(build, tmp_path):
    run_pruning_test(build, tmp_path, expected=CASES[build])


def test_a_layer_inside_and_outside_a_nested_model():
    """Keras itself cannot load such a model, so nothing is saved."""
    with floatx("float64"):
        shared = layers.Dense(6, activation="sigmoid", name="shared")
        given = keras.Input((6,))
        body = keras.Model(given, layers.Dense(6, name="own")(shared(given)))
        inputs = keras.Input((4,))
        x = layers.Dense(6, name="before")(inputs)
        model = pooled_model(inputs, body(shared(x)))
        assert_exact(model, 1e-10)


def test_the_same_reshape_on_two_widths_keeps_its_channels():
    inputs = keras.Input((8,))
    reshape = layers.Reshape((-1, 2))
    x = layers.Dense(8, name="a")(inputs)
    y = layers.Dense(12, name="b")(inputs)
    outputs = [layers.Flatten()(reshape(t)) for t in (x, y)]
    graph = kprune.trace(pooled_model(inputs, layers.Concatenate()(outputs)))
    assert "called on tensors of different origin" in graph["a"].pinned
    assert "called on tensors of different origin" in graph["b"].pinned
