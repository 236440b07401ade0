"""Quantisation-aware training before a model becomes an int8 file."""

from __future__ import annotations

import importlib.util
import logging

import keras
import numpy as np
import pytest
from export import digits
from export import tf_zoo
from export import zoo
from export.zoo import tensor_types
from keras import layers

import kprune
from kprune.data import batches
from kprune.export.samples import random_samples
from kprune.export.signature import ModelSignature

if importlib.util.find_spec("tensorflow_model_optimization") is None:
    pytest.skip("needs kprune[tfmot]", allow_module_level=True)

LOSS = "mse"


@pytest.fixture(scope="module")
def model():
    return digits.trained()


def small(*behind):
    """A convolution and what is behind it."""
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, name="conv")(x)
    for layer in behind:
        x = layer(x)
    return keras.Model(inputs, layers.Flatten()(x), name="small")


def pairs(model, count=64):
    x = zoo.images(count)
    return x, np.zeros((count, *model.output_shape[1:]), "float32")


@pytest.mark.parametrize(
    "io_dtype", [pytest.param("float32", marks=pytest.mark.slow), "int8"]
)
def test_accuracy_is_kept_in_int8(model, tmp_path, io_dtype):
    path = tmp_path / "m.tflite"
    train, _ = digits.data()
    weights = model.get_weights()
    report = kprune.export(
        model, path, quantize="qat", data=train, io_dtype=io_dtype
    )
    kinds, io = tensor_types(path)
    assert io == (np.dtype(io_dtype).type,) * 2
    floats = [k for k in kinds if np.issubdtype(k, np.floating)]
    assert len(floats) == (2 if io_dtype == "float32" else 0)
    assert digits.accuracy(path) >= digits.keras_accuracy(model) - 0.01
    assert report.quantize == "qat" and report.top1 >= 0.95
    assert report.data == "training data"
    assert "trained for 1 epoch" in str(report)
    for old, new in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.slow
def test_training_repairs_what_int8_breaks(tmp_path):
    # One channel a hundred times as large as the others leaves them two of the
    # 255 levels that a Dense kernel and its input share.
    model = digits.trained(epochs=6)
    scale = np.ones(16, "float32")
    scale[::2] = 60.0
    gamma, beta, mean, variance = model.get_layer("b1").get_weights()
    model.get_layer("b1").set_weights(
        [gamma * scale, beta * scale, mean, variance]
    )
    kernel, bias = model.get_layer("c2").get_weights()
    model.get_layer("c2").set_weights([kernel / scale[:, None], bias])
    train, _ = digits.data()
    after, trained = tmp_path / "ptq.tflite", tmp_path / "qat.tflite"
    kprune.export(model, after, quantize="int8", calibration=train[0][:256])
    kprune.export(
        model,
        trained,
        quantize="qat",
        data=train,
        epochs=3,
        learning_rate=1e-3,
    )
    assert digits.accuracy(trained) > digits.accuracy(after)


def test_ranges_start_at_those_of_the_data(tmp_path):
    # TF-MOT starts at -6 to 6; outputs of 1000 would all be clipped.
    model = small()
    model.get_layer("conv").set_weights(
        [1000 * w for w in model.get_layer("conv").get_weights()]
    )
    x, _ = pairs(model)
    y = np.asarray(model(x))
    report = kprune.export(
        model, tmp_path / "m.tflite", quantize="qat", data=(x, y), loss=LOSS
    )
    assert report.max_rel < 0.03


@pytest.mark.parametrize("kind", ["arrays", "weighted", "tf.data", "PyDataset"])
def test_every_kind_of_data(tmp_path, kind):
    model = small()
    x, y = pairs(model)

    class Pairs(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return x[32 * index :][:32], y[32 * index :][:32]

    data = {
        "arrays": (x, y),
        "weighted": (x, y, np.linspace(0, 1, len(x))),
        "tf.data": batches(x, y, 32),
        "PyDataset": Pairs(),
    }[kind]
    report = kprune.export(
        model,
        tmp_path / "m.tflite",
        quantize="qat",
        data=data,
        loss=LOSS,
        epochs=2,
    )
    assert report.quantize == "qat" and "2 epochs" in str(report)


def test_losses_of_several_outputs(tmp_path):
    a, b = keras.Input((8,), name="a"), keras.Input((8,), name="b")
    shared = layers.Dense(8, activation="relu")
    x = layers.Add()([shared(a), shared(b)])
    model = keras.Model(
        {"a": a, "b": b},
        {
            "class": layers.Dense(3, activation="softmax")(x),
            "size": layers.Dense(1)(x),
        },
    )
    model.compile(
        loss={"class": "sparse_categorical_crossentropy", "size": "mse"},
        loss_weights={"class": 1.0, "size": 0.1},
    )
    rng = np.random.default_rng(0)
    x = {k: rng.normal(size=(96, 8)).astype("float32") for k in "ab"}
    y = {"class": rng.integers(0, 3, 96), "size": rng.normal(size=(96, 1))}
    report = kprune.export(
        model, tmp_path / "m.tflite", quantize="qat", data=(x, y)
    )
    assert report.quantize == "qat" and report.max_rel < 0.1


@pytest.mark.slow
def test_the_layers_that_the_page_lists_are_covered(tmp_path, caplog):
    """docs/quantization.md."""
    x = inputs = keras.Input((8, 8, 3))
    x = layers.ZeroPadding2D(1)(x)
    x = layers.Conv2D(6, 3, strides=2, use_bias=False)(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.DepthwiseConv2D(3, padding="same")(x)
    x = layers.Activation("relu")(layers.BatchNormalization()(x))
    y = layers.SeparableConv2D(6, 3, padding="same")(x)
    y = layers.Activation("silu")(layers.BatchNormalization()(y))
    x = layers.LeakyReLU(0.1)(layers.Add()([x, y]))
    x = layers.Conv2DTranspose(4, 3, strides=2, padding="same")(x)
    x = layers.AveragePooling2D(2)(layers.UpSampling2D()(x))
    x = layers.Concatenate()([x, layers.MaxPooling2D(2, 1, "same")(x)])
    x = layers.Cropping2D(1)(layers.SpatialDropout2D(0.1)(x))
    x = layers.Dense(6, activation="gelu")(x)
    y = layers.GlobalMaxPooling2D()(x)
    x = layers.GlobalAveragePooling2D()(x) + y
    x = layers.Dense(8)(layers.Dropout(0.1)(layers.Flatten()(x)))
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Permute((2, 1))(layers.Reshape((4, 2))(x))
    x = layers.GlobalAveragePooling1D()(x)
    x = layers.Dense(4, activation="tanh")(x)
    x = layers.Dense(4, activation="sigmoid")(x)
    x = layers.Softmax()(layers.Dense(3)(x))
    model = keras.Model(inputs, x)
    report = kprune.export(
        model,
        tmp_path / "m.tflite",
        quantize="qat",
        data=pairs(model),
        loss=LOSS,
    )
    assert report.quantize == "qat"
    assert "after training" not in str(report) + caplog.text
    kinds, _ = tensor_types(tmp_path / "m.tflite")
    assert sum(np.issubdtype(kind, np.floating) for kind in kinds) == 2
    assert report.max_rel < 0.1


@pytest.mark.slow
def test_what_is_not_covered_is_named(tmp_path, caplog):
    model = small(
        layers.LayerNormalization(name="norm"),
        layers.Conv2D(4, 1, activation="hard_swish", name="swish"),
    )
    with caplog.at_level(logging.WARNING, "kprune"):
        report = kprune.export(
            model,
            tmp_path / "m.tflite",
            quantize="qat",
            data=pairs(model),
            loss=LOSS,
        )
    assert "norm (LayerNormalization), swish (hard_silu)" in caplog.text
    assert report.quantize == "qat"
    assert any("after training: norm" in note for note in report.notes)


@pytest.mark.parametrize(
    "name",
    [
        "siamese",
        "option A",
        pytest.param("convolutions", marks=pytest.mark.slow),
        pytest.param("nested", marks=pytest.mark.slow),
        pytest.param("attention", marks=pytest.mark.slow),
        pytest.param("custom", marks=pytest.mark.slow),
        pytest.param("float16", marks=pytest.mark.slow),
    ],
)
def test_every_structure_becomes_int8(tmp_path, name):
    build, _ = tf_zoo.MODELS[name]
    model = tf_zoo.lively(build())
    signature = ModelSignature(model)
    x = signature.pack(random_samples(signature, 64))
    y = keras.tree.map_structure(lambda t: np.asarray(t, "float32"), model(x))
    loss = {key: LOSS for key in y} if isinstance(y, dict) else LOSS
    path = tmp_path / "m.tflite"
    report = kprune.export(model, path, quantize="qat", data=(x, y), loss=loss)
    assert report.quantize == "qat"
    assert report.max_rel < 0.08
    kinds, _ = tensor_types(path)
    floats = sum(np.issubdtype(kind, np.floating) for kind in kinds)
    # LiteRT computes a part of LayerNormalization in float32, trained or not.
    normalizes = "LayerNormalization" in str(report)
    ends = len(signature.inputs) + len(signature.outputs)
    assert floats == ends + 2 * normalizes


@pytest.mark.slow
def test_layers_of_keras_inside_the_trained_model(tmp_path):
    """An LSTM, which only converts unrolled, beside a trained convolution."""
    model = zoo.two_inputs("dict")
    rng = np.random.default_rng(0)
    x = {"image": zoo.images(64), "tokens": rng.integers(0, 11, (64, 5))}
    y = {k: np.asarray(v) for k, v in model(x).items()}
    report = kprune.export(
        model, tmp_path / "m.tflite", quantize="qat", data=(x, y), loss=LOSS
    )
    assert report.quantize == "qat" and "WHILE" not in report.operators
    assert "unrolled" in str(report)
    assert report.max_rel < 0.15


@pytest.mark.slow
def test_a_masked_model_is_rebuilt_and_trained(model, tmp_path):
    train, _ = digits.data()
    masked = kprune.prune(model, reduce={"macs": 0.3})
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    path = tmp_path / "m.tflite"
    report = kprune.export(
        masked,
        path,
        quantize="qat",
        data=train,
        loss=loss,
        epochs=2,
        learning_rate=1e-3,
    )
    assert report.rebuilt
    assert digits.accuracy(path) > 0.9


def test_movement_of_values_is_no_gap(tmp_path, caplog):
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same")(x)
    x = keras.ops.pad(x[:, ::2, ::2, :], [[0, 0], [0, 0], [0, 0], [1, 1]])
    model = keras.Model(inputs, keras.ops.reshape(x, (-1, 96)))
    report = kprune.export(
        model,
        tmp_path / "m.tflite",
        quantize="qat",
        data=pairs(model),
        loss=LOSS,
    )
    assert "after training" not in str(report) + caplog.text


def test_models_that_cannot_be_trained_are_calibrated(tmp_path, caplog):
    sequence = keras.Sequential(
        [
            keras.Input((4,), dtype="int32"),
            layers.Embedding(11, 4, mask_zero=True, name="tokens"),
            layers.LSTM(3),
        ]
    )
    x = np.random.default_rng(0).integers(0, 11, (32, 4))
    report = kprune.export(
        sequence,
        tmp_path / "m.tflite",
        quantize="qat",
        data=(x, np.zeros((32, 3))),
        loss=LOSS,
    )
    assert report.quantize == "int8"
    assert "'tokens' hands on a mask" in caplog.text
    assert "no quantisation-aware training" in str(report)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs `data` with targets"),
        ({"data": 3}, "`data` must be arrays.*type int"),
        ({"data": [0, 1]}, r"`data` has shape \(\) for input"),
        ({"data": iter([])}, "is an iterator"),
        ({"data": "pairs", "loss": None}, "not compiled with a loss"),
        ({"data": "inputs"}, "no targets"),
        ({"data": "short"}, "One target|one target"),
        (
            {"data": "pairs", "epochs": 0},
            "whole number, 1 or more, as `epochs`",
        ),
        ({"data": "pairs", "epochs": True}, "`epochs`"),
        (
            {"data": "pairs", "learning_rate": 0},
            "number above 0 as `learning_rate`",
        ),
        (
            {"data": "pairs", "learning_rate": "1"},
            "number above 0 as `learning_rate`",
        ),
        ({"data": "pairs", "clusters": 1}, "2 or more, as `clusters`"),
        ({"data": "endless"}, "never ends"),
        ({"data": "pairs", "learning_rate": 1e30, "epochs": 3}, "smaller"),
    ],
)
def test_wrong_options_are_named(tmp_path, options, message):
    model = small()
    x, y = pairs(model)
    known = {
        "pairs": (x, y),
        "inputs": (x, None),
        "short": (x, y[:-1]),
        "endless": batches(x, y).repeat(),
    }
    data = options.get("data")
    options = {"loss": LOSS, **options}
    if isinstance(data, str):
        options["data"] = known[data]
    with pytest.raises((ValueError, TypeError), match=message):
        kprune.export(model, tmp_path / "m.tflite", quantize="qat", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options",
    [{"data": ([0], [0])}, {"epochs": 2}, {"loss": LOSS}, {"learning_rate": 1}],
)
def test_options_without_training_are_refused(tmp_path, options):
    (name,) = options
    with pytest.raises(ValueError, match=f"`{name}` is for training"):
        kprune.export(small(), tmp_path / "m.tflite", **options)


def test_other_formats_have_no_training(tmp_path):
    with pytest.raises(ValueError, match="takes quantize=None"):
        kprune.export(small(), tmp_path / "m.onnx", quantize="qat")
