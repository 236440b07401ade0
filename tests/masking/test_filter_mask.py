"""The wrapper computes with masked variables and changes none."""

import keras
import numpy as np
import pytest
from harness import outputs
from keras import layers
from keras.ops import convert_to_numpy as numpy

import kprune


def conv_mask():
    layer = kprune.FilterMask(layers.Conv2D(4, 3, bias_initializer="ones"))
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype("float32")
    layer(x)
    return layer, x


def test_masked_filters_are_zero_and_others_untouched():
    layer, x = conv_mask()
    plain = numpy(layer.layer(x))
    layer.mask = [1, 0, 1, 0]
    masked = numpy(layer(x))
    assert (masked[..., [1, 3]] == 0).all()
    np.testing.assert_array_equal(masked[..., [0, 2]], plain[..., [0, 2]])
    assert (np.asarray(layer.layer.kernel)[..., 1] != 0).any()


def test_factor_scales_a_filter():
    layer, x = conv_mask()
    plain = numpy(layer(x))
    layer.factor = [1, 0.5, 1, 0]
    np.testing.assert_allclose(
        numpy(layer(x)), plain * [1, 0.5, 1, 0], rtol=1e-5, atol=1e-6
    )
    assert layer.mask.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    "value", [[1, 0], [1, 0, 2, 1], [1, 0, float("nan"), 1]]
)
def test_bad_masks_are_refused(value):
    layer, _ = conv_mask()
    with pytest.raises(ValueError, match="mask of layer 'conv2d'"):
        layer.mask = value


def test_no_filters_no_factor():
    layer = kprune.FilterMask(layers.Conv2D(4, 1), axes=[[0, 2]], filters=[])
    layer(np.ones((1, 2, 2, 3), "float32"))
    assert layer.factor is None
    with pytest.raises(ValueError, match="produces no filters"):
        layer.factor = [1, 1, 1, 1]


def test_unbuilt_wrapper_says_so():
    with pytest.raises(ValueError, match="call the layer"):
        kprune.FilterMask(layers.Dense(3)).mask  # noqa: B018


class Penalised(layers.Dense):
    """A layer that adds a loss and updates a variable in its call."""

    def build(self, shape):
        super().build(shape)
        self.calls = self.add_weight(shape=(), trainable=False, name="calls")

    def call(self, x):
        self.calls.assign(self.calls + 1)
        self.add_loss(keras.ops.sum(self.kernel * 0 + 0.25))
        return super().call(x)


def test_added_losses_and_updates_reach_the_model():
    wrapper = kprune.FilterMask(Penalised(4))
    model = keras.Sequential([keras.Input((3,)), wrapper])
    model.compile("sgd", "mse", run_eagerly=False)
    before = float(wrapper.layer.calls.value)
    x, y = np.zeros((2, 3)), np.zeros((2, 4))
    loss = model.train_on_batch(x, y)
    assert float(np.ravel(loss)[0]) == pytest.approx(12 * 0.25)
    assert float(wrapper.layer.calls.value) == before + 1


def test_masked_entries_get_no_gradient_in_a_compiled_step():
    layer, x = conv_mask()
    model = keras.Sequential([keras.Input((6, 6, 3)), layer, layers.Flatten()])
    layer.mask = [1, 0, 1, 1]
    before = np.asarray(layer.layer.kernel).copy()
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.train_on_batch(x, np.ones((2, 64)))
    moved = np.abs(np.asarray(layer.layer.kernel) - before).max(axis=(0, 1, 2))
    assert moved[1] == 0 and (moved[[0, 2, 3]] > 0).all()


def test_batch_normalization_statistics_follow_the_plain_layer():
    x = np.random.default_rng(0).normal(2, 3, size=(8, 5)).astype("float32")
    plain = layers.BatchNormalization()
    wrapper = kprune.FilterMask(layers.BatchNormalization())
    for _ in range(3):
        plain(x, training=True)
        wrapper(x, training=True)
    for a, b in zip(plain.weights, wrapper.layer.weights, strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_dropout_inside_draws_new_numbers_each_step():
    recurrent = kprune.FilterMask(layers.Dense(3))
    noisy = kprune.FilterMask(layers.LSTM(4, dropout=0.5, seed=1))
    x = np.ones((2, 3, 3), "float32")
    a, b = (numpy(noisy(recurrent(x), training=True)) for _ in range(2))
    assert (a != b).any()


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    layer = layers.Dense(4, dtype=policy)
    wrapper = kprune.FilterMask(layer)
    x = np.random.default_rng(0).normal(size=(2, 3)).astype("float32")
    y = wrapper(x)
    assert keras.backend.standardize_dtype(y.dtype) == policy.split("_")[1]
    assert layer.kernel.dtype == "float32"
    np.testing.assert_array_equal(numpy(y), numpy(layer(x)))


def test_round_trip_keeps_masks_and_factors(tmp_path):
    layer, x = conv_mask()
    model = keras.Sequential([keras.Input((6, 6, 3)), layer])
    layer.mask, layer.factor = [1, 0, 1, 1], [1, 1, 0.5, 1]
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert loaded.layers[0].mask.tolist() == [1, 0, 1, 1]
    assert loaded.layers[0].factor.tolist() == [1, 1, 0.5, 1]
    np.testing.assert_array_equal(outputs(model, x)[0], outputs(loaded, x)[0])


def test_a_layer_without_weights_has_tensor_masks_only():
    layer = kprune.FilterMask(
        layers.UnitNormalization(), axes=[], filters=[], tensors={"axis1": 4}
    )
    x = np.ones((2, 4), "float32")
    np.testing.assert_allclose(layer(x), np.full((2, 4), 0.5), rtol=1e-6)
    layer.set_tensor_mask("axis1", [1, 0, 0, 0])
    np.testing.assert_allclose(layer(x)[:, 0], [1, 1], rtol=1e-6)
    with pytest.raises(ValueError, match="no weight that is masked"):
        layer.mask  # noqa: B018


def test_every_producing_axis_has_a_factor_of_its_own():
    layer = kprune.FilterMask(
        layers.EinsumDense("abc,cde->abde", (2, 3, 4)),
        filters=[[0, 1], [0, 2]],
    )
    x = np.ones((1, 2, 5), "float32")
    plain = numpy(layer(x))
    layer.set_axis_factor(layer.layer.kernel, 1, [1, 0.5, 1])
    layer.set_axis_factor(layer.layer.kernel, 2, [0.25, 1, 1, 1])
    scale = np.outer([1, 0.5, 1], [0.25, 1, 1, 1])
    np.testing.assert_allclose(
        numpy(layer(x)), plain * scale, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        layer.folded(0), np.asarray(layer.layer.kernel) * scale, rtol=1e-6
    )


def test_masks_of_a_layer_whose_rule_is_missing_are_refused():
    layer = kprune.FilterMask(
        Penalised(4), axes=[], filters=[], tensors={"axis1": 3}
    )
    with pytest.raises(ValueError, match=r"register_rule\(Penalised\)"):
        layer(np.ones((2, 3), "float32"))


@pytest.mark.tensorflow
def test_keras_can_export_a_masked_model(tmp_path):
    import tensorflow as tf

    net = [keras.Input((6, 6, 1)), layers.Conv2D(3, 3), layers.Conv2D(2, 3)]
    masked = kprune.wrap(keras.Sequential(net))
    masked.layers[0].mask = [1, 0, 1]
    masked.export(tmp_path / "served", verbose=False)
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 1)).astype("float32")
    loaded = tf.saved_model.load(str(tmp_path / "served"))
    served = loaded.serve(x)
    np.testing.assert_allclose(
        served, outputs(masked, x)[0], rtol=1e-5, atol=1e-6
    )


@pytest.mark.tensorflow
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`")
def test_a_masked_model_is_rebuilt_before_it_is_quantised():
    inputs = keras.Input((4, 6))
    x = layers.Dense(8, name="first")(inputs)
    x = layers.MultiHeadAttention(2, 4)(x, x)
    model = keras.Model(inputs, layers.Dense(2)(x))
    masked = kprune.wrap(model)
    with pytest.raises(ValueError, match=r"'first' is masked.*Rebuild first"):
        masked.quantize("int8")
    with pytest.raises(ValueError, match="Rebuild first"):
        masked.layers[2].layer._query_dense.quantize("int8")
    compact = kprune.rebuild(masked)
    compact.quantize("int8")
    assert compact.get_layer("first").quantization_mode == "int8"
    x = np.ones((1, 4, 6), "float32")
    assert outputs(compact, x)[0].shape == (1, 4, 2)


@pytest.mark.parametrize(
    "norm",
    [
        layers.LayerNormalization(),
        layers.GroupNormalization(2),
        layers.UnitNormalization(),
    ],
    ids=lambda norm: norm.name,
)
def test_layers_that_mix_channels_train_and_predict(norm):
    inputs = keras.Input((6,))
    x = layers.Dense(8, name="a")(inputs)
    model = keras.Model(inputs, layers.Dense(2)(norm(x)))
    masked = kprune.wrap(model)
    masked.compile("sgd", "mse")
    others = len(kprune.masks(masked)["a"]) - 1
    kprune.set_masks(masked, {"a": [0] + [1] * others})
    x = np.random.default_rng(0).normal(size=(8, 6)).astype("float32")
    masked.fit(x, np.zeros((8, 2)), verbose=0)
    predicted = masked.predict(x, verbose=0)
    np.testing.assert_allclose(predicted, outputs(masked, x)[0], atol=1e-6)
    assert np.isfinite(masked.evaluate(x, predicted, verbose=0))
