"""Files that tf.keras 2 writes, against what it computes."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import kprune

pytestmark = pytest.mark.tensorflow
tf = pytest.importorskip("tensorflow")
tf_keras = pytest.importorskip("tf_keras")
layers = tf_keras.layers

IMAGE = (8, 8, 3)
STEPS = (6, 3)


def chained(shape, *stack):
    return tf_keras.Sequential([tf_keras.Input(shape), *stack])


def functional(function, *shapes):
    inputs = [tf_keras.Input(shape) for shape in shapes]
    return tf_keras.Model(inputs, function(*inputs))


def convolutions():
    return chained(
        IMAGE,
        layers.SeparableConv2D(4, 3, padding="same"),
        layers.BatchNormalization(),
        layers.LeakyReLU(0.2),
        layers.DepthwiseConv2D(3, depth_multiplier=2),
        layers.SpatialDropout2D(0.1),
        layers.LayerNormalization(axis=[1, 2]),
        layers.Conv2DTranspose(4, 3, strides=2, output_padding=1),
        layers.Softmax(axis=[1, 2]),
    )


def recurrent():
    def seq2seq(a, b):
        _, *state = layers.LSTM(4, return_state=True)(a)
        y = layers.LSTM(4, return_sequences=True)(b, initial_state=state)
        cells = [layers.LSTMCell(3), layers.GRUCell(3)]
        y = layers.RNN(cells, return_sequences=True)(y)
        return layers.TimeDistributed(layers.Dense(2, "swish"))(y)

    return functional(seq2seq, STEPS, STEPS)


def attention():
    def attend(a, b):
        y = layers.MultiHeadAttention(2, 3)(a, value=b, key=b)
        return layers.Attention(use_scale=True)([y, b])

    return functional(attend, STEPS, STEPS)


def nested():
    def net(a):
        inner = chained(IMAGE, layers.DepthwiseConv2D(3, padding="same"))
        i = tf_keras.Input(IMAGE)
        graph = tf_keras.Model(i, layers.Conv2D(3, 1, name="x/y")(i))
        late = tf_keras.Sequential([layers.Conv2D(3, 1)])
        return [
            layers.Add()([inner(graph(inner(a))), late(graph(a))]),
            graph(late(a)),
        ]

    return functional(net, IMAGE)


def operations():
    return functional(
        lambda a, b: (1.0 - a) * b / 2.0 + tf.nn.relu6(a + b), (4,), (4,)
    )


MODELS = [convolutions, recurrent, attention, nested, operations]


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("suffix", [".h5", ".keras"])
@pytest.mark.parametrize("build", MODELS)
def test_outputs_are_those_of_keras_2(build, suffix, tmp_path):
    tf_keras.utils.set_random_seed(0)
    model = build()
    path = tmp_path / f"model{suffix}"
    model.save(path)
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(2, *i.shape[1:])) for i in model.inputs]
    x = [value.astype("float32") for value in x]
    x = x if len(x) > 1 else x[0]
    wanted = tf.nest.flatten(model(x))
    received = tf.nest.flatten(kprune.load(path)(x))
    for one, other in zip(wanted, received, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_loss_metrics_and_optimizer_come_along(suffix, tmp_path):
    entropy = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = functional(
        lambda a: [layers.Dense(3, name="s/1")(a), layers.Dense(2)(a)], (4,)
    )
    model.compile(
        tf_keras.optimizers.legacy.Adam(0.01, decay=0.1),
        {"s/1": entropy, model.output_names[1]: "mse"},
        {"s/1": ["accuracy"], model.output_names[1]: ["mae"]},
        loss_weights=[1.0, 0.5],
    )
    rng = np.random.default_rng(0)
    x, y = (
        rng.normal(size=(16, 4)),
        [rng.integers(3, size=16), rng.random((16, 2))],
    )
    model.train_on_batch(x, y)
    path = tmp_path / f"model{suffix}"
    model.save(path)
    with pytest.warns(UserWarning, match="state of the Keras 2 optimizer"):
        loaded = kprune.load(path)
    wanted = model.evaluate(x, y, verbose=0)
    received = loaded.evaluate(x, y, verbose=0)
    np.testing.assert_allclose(sorted(received), sorted(wanted), rtol=1e-5)
    rate = loaded.optimizer.get_config()["learning_rate"]["config"]
    assert rate["initial_learning_rate"] == pytest.approx(0.01)
    assert rate["decay_rate"] == pytest.approx(0.1)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_code_runs_only_when_asked_for(tmp_path):
    path = tmp_path / "model.h5"
    chained((4,), layers.Lambda(lambda x: 2 * x)).save(path)
    with pytest.raises(ValueError, match=r"Python code.*safe_mode=False"):
        kprune.load(path)
    x = np.ones((1, 4), "float32")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras says so too
        model = kprune.load(path, safe_mode=False)
    np.testing.assert_array_equal(model(x), 2 * x)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_a_slice_is_refused_by_name(tmp_path):
    path = tmp_path / "model.h5"
    functional(lambda a: a[:, 1:3], (4,)).save(path)
    with pytest.raises(ValueError, match=r"getitem.*keras.ops"):
        kprune.load(path)
