"""`keras.ops` nodes in functional models."""

import keras
import numpy as np
import pytest
from harness import assert_exact
from harness import except_on
from harness import floatx
from harness import prunable_sizes
from harness import run_pruning_test
from keras import layers
from keras import ops
from models import flat_model


def dense(x, units, name):
    return layers.Dense(units, activation="sigmoid", name=name)(x)


def conv(x, filters, name, activation="sigmoid"):
    return layers.Conv2D(filters, 1, activation=activation, name=name)(x)


def arithmetic():
    inputs = keras.Input((4,))
    a, b, c = (dense(inputs, 6, n) for n in "abc")
    scale = np.arange(1.0, 7.0)
    x = 1 - ops.multiply(x1=a, x2=scale) / scale + scale * 0.5
    x = ops.subtract(x1=scale, x2=x) ** 2
    y = ops.where(ops.greater(b, 0.5), b, ops.maximum(c, 0.3) * -1.0)
    y = ops.clip(y, -0.4, 0.4) + keras.Variable(np.ones(6))
    d = dense(y, 5, "d")
    row = d * np.ones((1, 5)) + np.zeros(5)
    z = abs(-row) // 0.3 + ops.mod(row, 0.2) + ops.logical_not(row > 0.5)
    return flat_model(
        inputs, layers.Concatenate()([x + y, z, ops.divide_no_nan(row, d)])
    )


def functions():
    x = inputs = keras.Input((4,))
    for n, function in enumerate(
        [
            ops.relu, ops.silu, ops.exp, ops.square, ops.tanh, ops.log_sigmoid,
            lambda v: ops.log1p(ops.relu(v)),
            lambda v: ops.leaky_relu(v, negative_slope=0.1),
            lambda v: ops.elu(v, alpha=0.5),
            lambda v: ops.power(v, 3), lambda v: 2.0 ** v,
            lambda v: ops.cast(v, "float32"),
            lambda v: ops.cast(v, keras.config.floatx()),
            lambda v: ops.glu(ops.concatenate([v, v], axis=-1)),
            lambda v: v + ops.stop_gradient(v), ops.gelu, ops.softplus,
        ]
    ):  # fmt: skip
        if n % 3 == 0:
            x = layers.Dense(4, activation="tanh", name=f"d{n}")(x)
        x = function(x)
    return flat_model(inputs, x)


def rearranging():
    x = inputs = keras.Input((4, 4, 3))
    x = conv(x, 8, "a")
    x = ops.reshape(x, (-1, 16, 8))
    x = ops.transpose(x, (0, 2, 1))
    x = ops.moveaxis(x, 1, -1)
    x = ops.reshape(x, (-1, 4, 4, 2, 4))
    x = ops.swapaxes(x, 3, 4)
    x = ops.reshape(x, (-1, 4, 4, 8))
    x = ops.expand_dims(x, (1, -1))
    x = ops.squeeze(ops.squeeze(x, axis=1))
    x = conv(ops.flip(x, axis=-1), 6, "b")
    x = ops.tile(x, (1, 1, 1, 2))
    x = ops.repeat(x, 2, axis=-1)
    x = ops.roll(ops.repeat(x, [1, 2, 1, 1], axis=1), 1, axis=2)
    x = conv(x, 5, "c")
    x = ops.stack([x, x * 2, ops.flip(x, axis=1)], axis=3)
    first, second, third = ops.unstack(x, axis=3)
    x = ops.concatenate([first, third - second], axis=-1)
    return flat_model(inputs, x)


def broadcasting():
    """A fixed batch, which broadcast_to and ravel need."""
    inputs = keras.Input(batch_shape=(3, 3, 4))
    x = dense(inputs, 6, "a")
    row = ops.broadcast_to(ops.mean(x, axis=1, keepdims=True), (3, 3, 6))
    wide = ops.tile(row[:, 0], (1, 1, 2))[0]
    x = ops.reshape(ops.ravel(x + row), (3, 18))
    return flat_model(inputs, layers.Concatenate()([x, wide]))


def cutting():
    x = inputs = keras.Input((6, 6, 3))
    x = conv(x, 9, "a")
    one, _, three = ops.split(x, [2, 6], axis=-1)
    x = ops.concatenate([three, one, one * 2], axis=-1)
    x = conv(x, 12, "b")
    left, right = ops.split(x, 2, axis=3)
    x = conv(left * right[..., ::-1], 8, "c")
    y = conv(x[:, ::2, -4:, 1::2], 8, "d")
    z = ops.take(y, [6, 1, 1, -2, 0, 2], axis=-1)
    w = conv(x[..., None, :][:, :, 1, 0:1], 8, "e")
    v = ops.take(ops.take(w, [2, 0, 1], axis=1), 0, axis=2)
    return flat_model(
        inputs, layers.Concatenate()([layers.Flatten()(t) for t in (y, z, v)])
    )


def fixed_slices():
    """ops.slice wants to know the batch."""
    inputs = keras.Input(batch_shape=(3, 4, 3))
    x = dense(inputs, 8, "a")
    x = ops.slice(x, (0, 1, 3), (3, 2, 5))
    return flat_model(inputs, dense(x, 4, "b")[:, -1])


def padding():
    x = inputs = keras.Input((4, 4, 3))
    x = conv(x, 4, "a")
    x = ops.pad(
        x, np.array([[0, 0], [1, 0], [0, 1], [2, 1]]), constant_values=0.5
    )
    x = conv(x, 5, "b")
    x = ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    x = conv(x, 4, "c")
    x = ops.pad(x, [[0, 0], [0, 0], [0, 0], [0, 3]])
    return flat_model(inputs, layers.GlobalMaxPooling2D()(x))


def reductions():
    """Sums, means and extrema over channels that are 0 once masked."""
    inputs = keras.Input((4, 4, 3))
    x = conv(inputs, 6, "zero", "relu")
    y = conv(inputs, 6, "not_zero")
    over = [
        reduce(x, axis=-1, keepdims=True)
        for reduce in (ops.sum, ops.mean, ops.max, ops.min)
    ]
    whole = (
        ops.mean(x, axis=None, keepdims=True) + ops.max(-x, axis=(1, 2, 3))[0]
    )
    z = conv(ops.concatenate(over, axis=-1) + whole, 5, "gate")
    space = [
        ops.mean(z, axis=(1, 2)), ops.max(y, axis=[1, 2]), ops.var(z, (1, 2)),
        ops.sum(y, (1, 2)), ops.logsumexp(y, axis=(1, 2)), ops.min(z, (1, 2)),
        layers.GlobalMaxPooling2D()(ops.softmax(z, axis=1)),
    ]  # fmt: skip
    return flat_model(inputs, layers.Concatenate()(space))


def comparisons():
    """Comparisons with 0, which is what removed channels are."""
    inputs = keras.Input((4, 4, 3))
    x = conv(inputs, 6, "a", "relu")
    y = conv(inputs, 6, "b", "tanh")
    both = ops.logical_xor(ops.not_equal(x, 0), y < 0)
    found = [
        ops.any(ops.logical_and(x > 0, y > 0), axis=-1, keepdims=True),
        ops.any(both, axis=(1, 2, 3), keepdims=True),
        ops.count_nonzero(x, axis=-1)[..., None],
    ]
    scale = sum(ops.cast(f, x.dtype) for f in found)
    z = layers.Masking()(ops.reshape((x + y) * scale, (-1, 16, 6)))
    return flat_model(inputs, layers.GRU(3, name="reads")(z))


def images():
    x = inputs = keras.Input((8, 8, 2))
    x = ops.depth_to_space(conv(x, 12, "up"), 2)
    x = ops.space_to_depth(conv(x, 4, "down"), 2)
    x = conv(x, 5, "a")
    x = ops.image.resize(x, (6, 6))
    x = ops.image.pad_images(x, 1, 1, 1, 1)
    x = ops.image.crop_images(x, 1, 0, 1, 0)
    x = ops.average_pool(x, 2, 2)
    x = conv(x, 4, "b")
    return flat_model(inputs, ops.max_pool(ops.relu6(x), 2))


CASES = {
    arithmetic: {"c": 6, "d": 5},
    functions: {f"d{n}": 4 for n in (0, 3, 6, 9, 12, 15)},
    rearranging: {"a": 4, "b": 6, "c": 5},
    broadcasting: {"a": 6},
    fixed_slices: {"a": 3, "a:2": 5, "b": 4},
    cutting: {
        "a": 2,
        "a:2": 4,
        "a:3": 3,
        "b": 6,
        "c": 4,
        "c:2": 4,
        "e": 8,
        "d": 2,
        "d:2": 2,
        "d:3": 4,
    },
    padding: {"a": 4, "b:2": 3, "b": 5, "c": 4, "head:2": 3},
    reductions: {"zero": 6, "gate": 5, "not_zero": 6},
    comparisons: {"a": 6, "reads": 3},
    images: {"up": 3, "down": 4, "a": 5, "b": 4},
}


MISSING = {
    "torch": {
        arithmetic: "no gradient of floor_divide",
        rearranging: "ops.repeat takes no list",
        cutting: "slices have no negative step",
        padding: "ops.pad takes no array as pad_width",
    },
    "jax": {
        rearranging: "ops.repeat takes no list",
        images: "ops.max_pool needs strides",
    },
}


@pytest.mark.parametrize("build", except_on(MISSING, CASES))
def test_operations(build, tmp_path):
    run_pruning_test(build, tmp_path, expected=CASES[build])


@keras.saving.register_keras_serializable("test_operations")
def doubled(x):
    return x * np.full(5, 2.0)


def test_uniform_constants_are_no_elementwise_functions():
    """Those with one value for each channel of the probe included."""
    with floatx("float64"):
        x = inputs = keras.Input((4,))
        x = ops.power(dense(x, 5, "raised"), np.full(5, 2.0))
        x = layers.Dense(5, activation=doubled, name="own")(x)
        x = ops.power(dense(x, 5, "scalar"), 2.0)
        model = flat_model(inputs, x)
        assert prunable_sizes(model) == {"scalar": 5}
        assert_exact(model, 1e-10)
