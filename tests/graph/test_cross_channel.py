"""Normalisation across channels leaves removed channels out."""

import keras
import numpy as np
import pytest
from harness import difference
from harness import masked_and_compact
from harness import outputs
from harness import randomise
from harness import run_pruning_test
from keras import layers

import kprune


def image(*stack, size=6, classes=3):
    x = inputs = keras.Input((size, size, 3))
    for layer in stack:
        x = layer(x)
    x = layers.Flatten()(x)
    return keras.Model(inputs, layers.Dense(classes, name="head")(x))


def tokens(*stack, length=4, width=5):
    x = inputs = keras.Input((length, width))
    for layer in stack:
        x = layer(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


def dense(units, name, activation="sigmoid"):
    return layers.Dense(units, activation=activation, name=name)


def layer_norms():
    """With and without parameters, behind activations that are not 0 at 0."""
    return tokens(
        dense(8, "a"),
        layers.LayerNormalization(),
        dense(6, "b"),
        layers.LayerNormalization(center=False, scale=False),
        dense(7, "c"),
        layers.LayerNormalization(scale=False),
        dense(5, "d"),
        layers.LayerNormalization(center=False, epsilon=1e-6),
    )


def layer_norm_over_several_axes():
    return image(
        layers.Conv2D(6, 3, activation="softplus", name="a"),
        layers.LayerNormalization(axis=[1, 2, 3]),
        layers.Conv2D(5, 2, activation="sigmoid", name="b"),
        layers.LayerNormalization(axis=[-2, -1]),
    )


def layer_norm_channels_first():
    return image(
        layers.Permute((3, 1, 2)),
        layers.Conv2D(6, 1, activation="sigmoid", name="a"),
        layers.Permute((3, 1, 2)),
        layers.LayerNormalization(axis=1),
        layers.LayerNormalization(axis=[1, 3]),
    )


def rms_norms():
    return tokens(
        dense(8, "a"),
        layers.RMSNormalization(),
        dense(6, "b"),
        layers.RMSNormalization(axis=[-2, -1]),
    )


def unit_norms():
    """Behind something that is 0 once masked, and behind something not."""
    return tokens(
        dense(8, "a", "relu"),
        layers.UnitNormalization(),
        dense(6, "b", "softplus"),
        layers.UnitNormalization(axis=[1, 2]),
    )


def groups():
    """Whole groups, aligned channels, one group, as many as channels."""
    return image(
        layers.Conv2D(8, 3, activation="sigmoid", name="whole"),
        layers.GroupNormalization(4),
        layers.Conv2D(12, 1, activation="sigmoid", name="aligned"),
        layers.GroupNormalization(2),
        layers.Conv2D(6, 1, activation="sigmoid", name="one"),
        layers.GroupNormalization(1, center=False, scale=False),
        layers.Conv2D(5, 1, activation="sigmoid", name="instance"),
        layers.GroupNormalization(-1),
    )


def group_norm_resnet():
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same", name="stem")(x)
    for block, (filters, stride) in enumerate([(8, 1), (16, 2)]):
        short = x
        if stride > 1:
            short = layers.Conv2D(filters, 1, strides=stride, name="short")(x)
        y = layers.ReLU()(layers.GroupNormalization(4)(x))
        y = layers.Conv2D(filters, 3, stride, padding="same", name=f"a{block}")(
            y
        )
        y = layers.ReLU()(layers.GroupNormalization(8)(y))
        y = layers.Conv2D(filters, 3, padding="same", name=f"b{block}")(y)
        x = layers.Add()([y, short])
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


def spectral():
    return image(
        layers.SpectralNormalization(
            layers.Conv2D(6, 3, activation="sigmoid"),
            power_iterations=2,
            name="conv",
        ),
        layers.SpectralNormalization(
            layers.Conv2DTranspose(5, 2), name="transposed"
        ),
        layers.SpectralNormalization(
            layers.DepthwiseConv2D(2), name="depthwise"
        ),
        layers.Flatten(),
        layers.SpectralNormalization(layers.Dense(7, "relu"), name="dense"),
    )


def convnext_block():
    x = inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(6, 2, strides=2, name="stem")(x)
    x = short = layers.LayerNormalization(epsilon=1e-6)(x)
    x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = layers.LayerNormalization(epsilon=1e-6)(x)
    x = layers.Dense(10, activation="gelu", name="expand")(x)
    x = layers.Dense(6, name="project")(x)
    x = layers.Add()([x, short])
    x = layers.LayerNormalization()(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


ZOO = {
    layer_norms: {"a": 8, "b": 6, "c": 7, "d": 5},
    layer_norm_over_several_axes: {"a": 6, "b": 5},
    rms_norms: {"a": 8, "b": 6},
    unit_norms: {"a": 8, "b": 6},
    groups: {"whole": 4, "aligned": 6, "one": 6, "instance": 5},
    group_norm_resnet: {"stem": 4, "a0": 8, "a1": 8, "b1": 16},
    spectral: {"conv": 6, "transposed": 5, "dense": 7},
    convnext_block: {"stem": 6, "expand": 10},
}


@pytest.mark.parametrize("build", ZOO, ids=lambda f: f.__name__)
def test_masked_equals_compact(build, tmp_path):
    run_pruning_test(build, tmp_path, expected=ZOO[build])


def test_layer_norm_statistics_are_those_of_the_living_channels():
    layer = layers.LayerNormalization()
    model = tokens(dense(6, "a"), layer)
    randomise(model)
    masked = kprune.wrap(model)
    alive = np.array([1, 0, 1, 1, 0, 1], bool)
    kprune.set_masks(masked, {"a": alive})
    x = np.random.default_rng(0).normal(size=(2, 4, 5)).astype("float32")
    inner = keras.Model(masked.input, masked.get_layer(layer.name).output)
    (y,) = outputs(keras.Model(model.input, model.get_layer("a").output), x)
    y = y[..., alive]
    expected = (y - y.mean(-1, keepdims=True)) / np.sqrt(
        y.var(-1, keepdims=True) + layer.epsilon
    )
    expected = (
        expected * np.asarray(layer.gamma)[alive]
        + np.asarray(layer.beta)[alive]
    )
    (found,) = outputs(inner, x)
    np.testing.assert_allclose(
        found[..., alive], expected, rtol=1e-4, atol=1e-5
    )
    assert (found[..., ~alive] == 0).all()


@pytest.mark.parametrize(
    "layer",
    [
        layers.LayerNormalization,
        layers.RMSNormalization,
        layers.GroupNormalization,
    ],
)
def test_half_precision_computes_statistics_in_float32(layer):
    options = {"groups": 1} if layer is layers.GroupNormalization else {}
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = image(layers.Conv2D(6, 3, name="a"), layer(**options))
    finally:
        keras.config.set_dtype_policy("float32")
    kernel = model.get_layer("a").kernel
    kernel.assign(kernel * 1000)  # squares overflow float16
    masked, compact = masked_and_compact(model)
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype("float32")
    assert difference(outputs(masked, x), outputs(compact, x)) < 5e-3


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize(
    "kind",
    [
        layers.LayerNormalization,
        lambda **kwargs: layers.GroupNormalization(2, **kwargs),
        layers.RMSNormalization,
    ],
    ids=["layer", "group", "rms"],
)
def test_full_precision_behind_half_precision_rounds_as_keras_does(
    kind, policy
):
    x = inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(8, 1, dtype=policy, name="a")(x)
    x = kind(dtype="float32")(x)
    x = layers.Dense(3, dtype="float32")(layers.Flatten(dtype="float32")(x))
    model = keras.Model(inputs, x)
    masked, compact = masked_and_compact(model)
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype("float32")
    assert difference(outputs(masked, x), outputs(compact, x)) < 1e-2
    assert difference(outputs(masked, x), outputs(model, x)) > 0.1


def test_a_left_out_normalisation_keeps_its_channels():
    norm = layers.LayerNormalization(center=False, scale=False, name="norm")
    model = tokens(dense(6, "a"), norm, dense(4, "b"))
    assert [g.name for g in kprune.trace(model, skip=["norm"]).prunable] == [
        "b"
    ]
    masked = kprune.wrap(model, skip=["norm"])
    graph = kprune.trace(masked)
    assert [g.name for g in graph.prunable] == ["b"]
    assert "left out of wrap()" in graph["a"].pinned


class Strange(layers.Dense):
    """Has a kernel, but no rule."""

    def call(self, inputs):
        return super().call(inputs)[..., ::-1]


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (
            layers.LayerNormalization(axis=[1, -1]),
            "mixes positive and negative",
        ),
        (layers.LayerNormalization(axis=[0, 1]), "normalises across samples"),
        (layers.RMSNormalization(axis=1), "scales another axis"),
        (
            layers.SpectralNormalization(Strange(4)),
            "wraps a Strange, which has no rule",
        ),
    ],
)
def test_pinned_with_a_reason(layer, reason):
    inputs = keras.Input(batch_shape=(4, 4, 4))
    x = layers.Dense(4, name="a")(inputs)
    x = layer(x)
    model = keras.Model(inputs, layers.Dense(2)(x))
    assert reason in kprune.trace(model)["a"].pinned


def test_spectral_norm_of_the_compact_kernel_stays_that_of_the_masked():
    model = tokens(layers.SpectralNormalization(dense(6, "a", None), name="s"))
    randomise(model)
    masked = kprune.wrap(model)
    kprune.set_masks(masked, {"s": [1, 1, 0, 1, 0.5, 1]})
    compact = kprune.rebuild(masked)
    raw = np.asarray(masked.get_layer("s").layer.kernel)
    x = np.random.default_rng(0).normal(size=(2, 4, 5)).astype("float32")
    for _ in range(3):
        a, b = (
            outputs(masked, x, training=True),
            outputs(compact, x, training=True),
        )
        assert difference(a, b) < 1e-5
    after = np.asarray(masked.get_layer("s").layer.kernel)
    np.testing.assert_array_equal(after[:, 2], raw[:, 2])  # unmasking finds it
    assert (after[:, 0] != raw[:, 0]).all()
