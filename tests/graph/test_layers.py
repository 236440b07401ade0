"""Layers without kernels: activations, pooling, data movement, merging."""

import keras
import numpy as np
import pytest
from harness import assert_exact
from harness import assert_saves
from harness import difference
from harness import floatx
from harness import masked_and_compact
from harness import outputs
from harness import prunable_sizes
from harness import run_pruning_test
from keras import layers
from models import flat_model

import kprune


@keras.saving.register_keras_serializable("test_layers")
def cosine(x):
    return keras.ops.cos(x)


def activations():
    x = inputs = keras.Input((4, 4, 2))
    for n, layer in enumerate(
        [
            layers.ReLU(max_value=2.0, negative_slope=0.1, threshold=0.5),
            layers.LeakyReLU(),
            layers.ELU(),
            layers.PReLU(),
            layers.PReLU(shared_axes=[1, 2]),
            layers.PReLU(shared_axes=[3]),
            layers.Softmax(axis=1),
            layers.Softmax(axis=[1, 2]),
            layers.Activation(cosine),
        ]
    ):
        x = layers.Dense(4, name=f"d{n}")(x)
        x = layer(x)
    return flat_model(inputs, x)


def noise_and_friends():
    """Training behaviour has its own random numbers: inference is compared."""
    x = inputs = keras.Input((3, 4))
    for n, layer in enumerate(
        [
            layers.Dropout(0.2, noise_shape=(None, 1, 5)),
            layers.SpatialDropout1D(0.2),
            layers.GaussianDropout(0.2),
            layers.AlphaDropout(0.2),
            layers.GaussianNoise(0.2),
            layers.ActivityRegularization(0.1),
            layers.Identity(),
            layers.RepeatVector(2),
        ]
    ):
        if isinstance(layer, layers.RepeatVector):
            x = layers.GlobalMaxPooling1D()(x)
        x = layer(layers.Dense(5, name=f"d{n}")(x))
    return flat_model(inputs, x)


def pooling():
    x = inputs = keras.Input((12, 12, 2))
    x = layers.Conv2D(4, 1, activation="sigmoid", name="a")(x)
    x = layers.ZeroPadding2D(1)(x)
    x = layers.AveragePooling2D(3, padding="same", strides=2)(x)
    x = layers.Conv2D(5, 1, activation="softplus", name="b")(x)
    x = layers.Cropping2D(((1, 0), (0, 1)))(x)
    x = layers.UpSampling2D(2, interpolation="bilinear")(x)
    x = layers.Resizing(8, 6, interpolation="nearest")(x)
    x = layers.CenterCrop(6, 6)(x)
    x = layers.Conv2D(4, 1, name="c")(x)
    x = layers.AdaptiveAveragePooling2D(4)(x)
    x = layers.AdaptiveMaxPooling2D((2, 3))(x)
    y = layers.Reshape((6, 4))(x)
    y = layers.ZeroPadding1D(1)(y)
    y = layers.MaxPooling1D(2)(layers.UpSampling1D(2)(y))
    y = layers.AveragePooling1D(2, padding="same")(layers.Cropping1D(1)(y))
    y = layers.GlobalAveragePooling1D(keepdims=True)(y)
    return flat_model(
        inputs, layers.Concatenate()([layers.Flatten()(v) for v in (x, y)])
    )


def reshaping():
    x = inputs = keras.Input((6,))
    x = layers.Dense(24, activation="sigmoid", name="wide")(x)
    x = layers.BatchNormalization()(x)
    x = layers.Reshape((2, 3, 4))(x)
    x = layers.Conv2D(4, 2, padding="same", name="conv")(x)
    x = layers.Permute((3, 1, 2))(x)
    x = layers.Permute((2, 3, 1))(x)
    x = layers.Reshape((-1, 2))(x)
    x = layers.Reshape((3, 8))(x)
    return flat_model(inputs, layers.Dense(5, name="last")(x))


def merging():
    inputs = keras.Input((3, 4))
    a, b, c, d = (
        layers.Dense(5, name=n, activation="sigmoid")(inputs) for n in "abcd"
    )
    x = layers.Subtract()([layers.Average()([a, b]), layers.Minimum()([a, c])])
    x = layers.Maximum()([x, layers.Multiply()([b, d])])
    row = layers.GlobalAveragePooling1D()(layers.Dense(5, name="e")(inputs))
    # Merge layers put missing axes behind the batch axis.
    x = layers.Add()([x, row])
    # Concatenation of steps: the channels of both are the same ones.
    y = layers.Dense(5, name="f")(inputs)
    x = layers.Concatenate(axis=1)([x, y])
    single = layers.Dense(1, activation="sigmoid", name="gate")(x)
    return flat_model(inputs, layers.Multiply()([x, single]))


def masking():
    x = inputs = keras.Input((3, 4))
    x = layers.Dense(5, activation="relu", name="zero")(x)
    x = layers.Masking()(x)
    x = layers.Dense(5, activation="sigmoid", name="not_zero")(x)
    x = layers.Masking()(x)
    return flat_model(inputs, layers.GRU(3, name="rnn")(x))


CASES = {
    activations: {f"d{n}": 4 for n in range(9)},
    pooling: {"a": 4, "b": 5, "c": 4},
    reshaping: {"wide": 4, "conv": 2, "last": 5},
    merging: {"a": 5},
    masking: {"zero": 5, "rnn": 3},
}


@pytest.mark.parametrize("build", CASES, ids=lambda f: f.__name__)
def test_layers(build, tmp_path):
    run_pruning_test(build, tmp_path, expected=CASES[build])


def test_noise(tmp_path):
    expected = {f"d{n}": 5 for n in range(8)}
    run_pruning_test(
        noise_and_friends, tmp_path, expected=expected, train=False
    )


@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("softmax", "mixes channels"),
        ("log_softmax", "mixes channels"),
        ("sparsemax", "mixes channels"),
        (keras.ops.log, "not finite at removed channels"),
        (keras.ops.sqrt, "not finite at removed channels"),
        (lambda x: 1 / x, "not finite at removed channels"),
        (lambda x: keras.ops.cumsum(x, axis=-1), "mixes channels"),
    ],
)
def test_activation_that_pins(function, told):
    x = inputs = keras.Input((4,))
    x = layers.Dense(5, name="a")(x)
    x = layers.Activation(function)(x)
    model = flat_model(inputs, x)
    assert told in kprune.trace(model)["a"].pinned


def test_softmax_over_another_axis_pins_that_axis_alone():
    inputs = keras.Input((3, 4))
    x = layers.Dense(5, name="channels")(inputs)
    x = layers.Permute((2, 1))(x)
    x = layers.Dense(6, name="tokens")(x)
    x = layers.Activation(lambda v: keras.ops.softmax(v, axis=1))(x)
    sizes = prunable_sizes(flat_model(inputs, x))
    assert sizes == {}


def channels_first():
    """Convolutions need a GPU here; everything else has to run."""
    x = inputs = keras.Input((2, 4, 4))
    x = layers.Permute((2, 3, 1))(x)
    x = layers.Dense(6, activation="sigmoid", name="a")(x)
    x = layers.Permute((3, 1, 2))(x)
    x = layers.BatchNormalization(axis=1)(x)
    x = layers.PReLU(shared_axes=[2, 3])(x)
    x = layers.ZeroPadding2D(1, data_format="channels_first")(x)
    x = layers.UpSampling2D(2, data_format="channels_first")(x)
    x = layers.Cropping2D(1, data_format="channels_first")(x)
    y = layers.GlobalAveragePooling2D(data_format="channels_first")(x)
    z = layers.Flatten(data_format="channels_first")(x)
    return flat_model(inputs, layers.Concatenate()([y, z]))


def test_channels_first(tmp_path):
    run_pruning_test(channels_first, tmp_path, expected={"a": 6})


def test_channels_first_convolutions_shrink_their_shapes():
    def build():
        form = {"data_format": "channels_first"}
        x = inputs = keras.Input((3, 8, 8))
        x = layers.Conv2D(6, 3, name="a", **form)(x)
        x = layers.DepthwiseConv2D(3, **form)(x)
        x = layers.MaxPooling2D(**form)(x)
        x = layers.Conv2DTranspose(5, 2, name="b", **form)(x)
        x = layers.SeparableConv2D(4, 2, name="c", **form)(x)
        return flat_model(inputs, layers.GlobalAveragePooling2D(**form)(x))

    with floatx("float32"):
        model = build()
        assert prunable_sizes(model) == {"a": 6, "b": 5, "c": 4}
        masked = kprune.wrap(model)
        kprune.set_masks(masked, {"a": [1, 0] * 3, "c": [0, 1, 1, 0]})
        compact = kprune.rebuild(masked)
    assert compact.get_layer("a").output.shape == (None, 3, 6, 6)
    assert compact.get_layer("c").output.shape[1] == 2


def test_pooling_in_three_dimensions():
    """TensorFlow has these kernels in single precision only."""
    with floatx("float32"):
        x = inputs = keras.Input((4, 4, 4, 2))
        x = layers.Dense(5, activation="sigmoid", name="a")(x)
        x = layers.AveragePooling3D(2)(layers.MaxPooling3D(2, strides=1)(x))
        model = flat_model(inputs, x)
        assert prunable_sizes(model) == {"a": 5}
        assert_exact(model, 1e-5)


def constants():
    """Statistics and scales as numbers, lists and arrays, and adapted ones."""
    one, two = np.linspace(0.1, 0.8, 5), np.linspace(0.5, 2, 15).reshape(3, 5)
    x = inputs = keras.Input((3, 5))
    for n, layer in enumerate(
        [
            layers.Normalization(axis=None, mean=3.0, variance=2.0),
            layers.Normalization(axis=(1, 2), mean=two.tolist(), variance=two),
            layers.Normalization(axis=(1, 2), mean=one, variance=one),
            layers.Normalization(mean=1.0, variance=2.0, invert=True),
            layers.Normalization(axis=1, mean=two[:, 0], variance=two[:, 1]),
            layers.Normalization(),
            layers.Normalization(axis=(-1, 1)),
            layers.Rescaling(one, one.tolist()),
            layers.Rescaling(list(one)),
            layers.Rescaling(0.1, two),
        ]
    ):
        x = layers.Dense(5, activation="sigmoid", name=f"d{n}")(layer(x))
    return flat_model(inputs, x)


def test_constants_are_cut(tmp_path):
    expected = {f"d{n}": 5 for n in range(10)}
    with floatx("float64"):
        model = constants()
        assert prunable_sizes(model) == expected
        _, compact, x = assert_exact(model, 1e-10)
        assert_saves(compact, x, tmp_path / "compact.keras")


def several_inputs():
    inputs = keras.Input((4, 6))
    a, b, c = (
        layers.Dense(8, activation="sigmoid", name=n)(inputs) for n in "abc"
    )
    p, q = layers.Identity()([a, b])
    c = layers.Add()([c, np.ones((1, 4, 8))])
    return flat_model(inputs, layers.Concatenate()([p, q, c]))


def test_several_inputs_and_constants():
    with floatx("float64"):
        model = several_inputs()
        assert prunable_sizes(model) == {"a": 8, "b": 8}
        assert_exact(model, 1e-10)
        reason = kprune.trace(model)["c"].pinned
    assert reason == "a constant of Add 'add'"


def channels_first_constants():
    x = inputs = keras.Input((4, 4, 2))
    x = layers.Dense(6, activation="sigmoid", name="a")(x)
    x = layers.Permute((3, 1, 2))(x)
    x = layers.Rescaling(np.arange(1.0, 7.0), [1.0, 2.0, 3.0, 4.0])(x)
    x = layers.Normalization(axis=1)(x)
    return flat_model(inputs, x)


def test_channels_first_constants_are_cut():
    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    try:
        with floatx("float64"):
            model = channels_first_constants()
            assert prunable_sizes(model) == {"a": 6}
            assert_exact(model, 1e-10)
    finally:
        keras.config.set_image_data_format(before)


def test_channels_that_only_statistics_follow_stay():
    """A batch normalisation of zero padding, without scale and offset."""
    inputs = keras.Input((6, 4))
    x = layers.Dense(5, name="dense")(inputs)
    padded = keras.ops.pad(x, [[0, 0], [0, 0], [3, 0]])
    y = layers.BatchNormalization(scale=False, center=False, name="bn")(padded)
    y = layers.GlobalAveragePooling1D()(y)
    model = keras.Model(inputs, layers.Dense(2, name="head")(y[:, 2:]))
    graph = kprune.trace(model)
    assert graph["bn"].pinned == "nothing but running statistics follow it"
    assert graph.prunable[0].name == "dense"
    assert_exact(model, 1e-5)


@pytest.mark.parametrize("scale", [np.float64(1) / 3, [*np.arange(1, 7) / 7]])
def test_numpy_numbers_keep_their_precision(scale):
    with floatx("float64"):
        inputs = keras.Input((5,))
        x = layers.Dense(6, name="a")(inputs)
        x = layers.Rescaling(scale, offset=scale)(x)
        model = keras.Model(inputs, layers.Dense(2)(x))
        x = np.random.default_rng(0).normal(size=(3, 5))
        masked, compact = masked_and_compact(model)
        assert (
            difference(outputs(kprune.wrap(model), x), outputs(model, x)) == 0
        )
        assert difference(outputs(masked, x), outputs(compact, x)) < 1e-14
