"""Calibration data of every kind, and random inputs that models accept."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from export import zoo
from keras import layers

import kprune
from kprune.export.samples import collect_samples
from kprune.export.samples import random_samples
from kprune.export.signature import ModelSignature

X, Y = zoo.images(10), np.arange(10)


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 5

    def __getitem__(self, index):
        part = slice(2 * index, 2 * index + 2)
        return X[part], Y[part]


class Endless(Batches):
    num_batches = None

    def __getitem__(self, index):
        return super().__getitem__(index % 5)


def dataset(*arrays):
    return tf.data.Dataset.from_tensor_slices(arrays if len(arrays) > 1 else X)


SINGLE = {
    "array": lambda: X,
    "tensor": lambda: tf.constant(X),
    "array_and_targets": lambda: (X, Y),
    "list_of_batches": lambda: [X[:4], X[4:]],
    "list_of_samples": lambda: list(X),
    "dictionary": lambda: {"image": X},
    "dataset": lambda: dataset(X).batch(3),
    "dataset_with_targets": lambda: dataset(X, Y).batch(3),
    "dataset_with_weights": lambda: dataset(X, Y, Y).batch(3),
    "dataset_unbatched": lambda: dataset(X, Y),
    "pydataset": Batches,
    "generator": lambda: ((X[i : i + 5], Y[i : i + 5]) for i in (0, 5)),
    "function": lambda: lambda: iter([X[:5], X[5:]]),
}


@pytest.mark.parametrize("kind", SINGLE)
def test_one_input(kind):
    (got,) = collect_samples(ModelSignature(zoo.conv_net()), SINGLE[kind]())
    np.testing.assert_array_equal(got, X)


IDS = np.arange(50).reshape(10, 5) % 11
DOUBLE = {
    "list": lambda: [X, IDS],
    "list_and_targets": lambda: ([X, IDS], Y),
    "tuple": lambda: (X, IDS),
    "dictionary": lambda: {"tokens": IDS, "image": X},
    "dataset_of_tuples": lambda: dataset(X, IDS).batch(4),
    "dataset_nested": lambda: tf.data.Dataset.from_tensor_slices(
        ((X, IDS), Y)
    ).batch(4),
    "dataset_of_dictionaries": lambda: tf.data.Dataset.from_tensor_slices(
        ({"image": X, "tokens": IDS}, Y)
    ).batch(4),
}


# Arrays without names have no order for dictionary inputs.
PAIRS = [("list", kind) for kind in DOUBLE]
PAIRS += [("dict", kind) for kind in DOUBLE if "dict" in kind]


@pytest.mark.parametrize(("structure", "kind"), PAIRS)
def test_two_inputs(structure, kind):
    signature = ModelSignature(zoo.two_inputs(structure))
    by_name = dict(
        zip(
            [spec.name for spec in signature.inputs],
            collect_samples(signature, DOUBLE[kind]()),
            strict=True,
        )
    )
    np.testing.assert_array_equal(by_name["image"], X)
    np.testing.assert_array_equal(by_name["tokens"], IDS)
    assert by_name["tokens"].dtype == "int32"


def test_reading_stops_at_the_limit():
    signature = ModelSignature(zoo.conv_net())
    (got,) = collect_samples(signature, Endless(), limit=17)
    assert len(got) == 17
    np.testing.assert_array_equal(got[10:], X[:7])


def one_by_one(count: int):
    """What TFLite calls a representative dataset: batches of one sample."""
    return ([X[i % 10][None]] for i in range(count))


@pytest.mark.parametrize(
    "data",
    [
        one_by_one(200),
        lambda: one_by_one(200),
        one_by_one(10**9),
        dataset(X).batch(1).repeat(),
    ],
    ids=["generator", "function", "endless", "dataset"],
)
def test_batches_of_one_sample_are_read_up_to_the_limit(data):
    signature = ModelSignature(zoo.conv_net())
    (got,) = collect_samples(signature, data, limit=150)
    np.testing.assert_array_equal(got, X[np.arange(150) % 10])


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (np.zeros((4, 8, 8, 1)), ValueError, r"shape \(4, 8, 8, 1\).*8, 8, 3"),
        (np.zeros((0, 8, 8, 3)), ValueError, "is empty"),
        (iter([]), ValueError, "is empty"),
        (3, TypeError, "Received: 3 of type int"),
        ({"picture": X}, ValueError, r"no entry for the inputs \['image'\]"),
    ],
)
def test_unfit_data_is_explained(data, error, message):
    with pytest.raises(error, match=message):
        collect_samples(ModelSignature(zoo.conv_net()), data)


def test_arrays_must_agree_in_number():
    signature = ModelSignature(zoo.two_inputs("list"))
    with pytest.raises(ValueError, match="arrays of 9 and 10 samples"):
        collect_samples(signature, [X, IDS[:9]])
    with pytest.raises(ValueError, match=r"has 2 inputs \(image, tokens\)"):
        collect_samples(signature, [X])


def test_random_samples_are_seeded_and_scaled():
    signature = ModelSignature(zoo.conv_net())
    (a,), (b,) = random_samples(signature, 40), random_samples(signature, 40)
    np.testing.assert_array_equal(a, b)
    assert a.shape == (40, 8, 8, 3) and a.dtype == "float32"
    assert abs(a.std() - 1) < 0.05


def test_random_indices_fit_the_smallest_embedding_they_reach():
    ids = keras.Input((6,), dtype="int32")
    flags = keras.Input((2,), dtype="bool")
    floats = keras.Input((3,))
    inner_ids = keras.Input((3,))
    inner = keras.Model(inner_ids, layers.Embedding(7, 2)(inner_ids))
    outputs = [
        layers.Embedding(40, 2)(ids[:, :3]),
        inner(layers.Reshape((3,))(ids[:, 3:])),
        keras.ops.cast(flags, "float32"),
        inner(floats),
    ]
    signature = ModelSignature(keras.Model([ids, flags, floats], outputs))
    x, y, z = random_samples(signature, 200)
    assert x.min() == 0 and x.max() == 6 and x.dtype == "int32"
    assert y.dtype == bool and 0.4 < y.mean() < 0.6
    # A float input that is an index of a table holds whole numbers.
    assert z.max() == 6 and z.dtype == "float32" and np.all(z == np.round(z))


def test_unknown_axes_get_a_length():
    model = keras.Sequential(
        [keras.Input((None, None, 3)), layers.Conv2D(2, 3)]
    )
    assert random_samples(ModelSignature(model), 2)[0].shape == (2, 32, 32, 3)


def test_undrawable_dtype_is_explained():
    inputs = keras.Input((1,), dtype="complex64")
    model = keras.Model(inputs, keras.ops.real(inputs))
    with pytest.raises(ValueError, match="Pass real ones"):
        random_samples(ModelSignature(model), 2)


# -- arrays are spread, streams are not --------------------------------------


def test_arrays_sorted_by_class_are_spread():
    x = np.repeat(np.arange(4.0), 25)[:, None, None, None] * np.ones((8, 8, 3))
    signature = ModelSignature(zoo.conv_net())
    (spread,) = collect_samples(signature, (x, np.arange(100)), limit=8)
    assert spread[:, 0, 0, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    (first,) = collect_samples(signature, iter([x[:50], x[50:]]), limit=8)
    assert not first.any()


# -- text, bfloat16 and inputs that may be left out --------------------------


def text_model():
    text = keras.Input((1,), dtype="string", name="text")
    words = layers.TextVectorization(
        vocabulary=["a", "b", "c"], output_sequence_length=4
    )
    x = layers.Flatten()(layers.Embedding(5, 3)(words(text)))
    return keras.Model(text, layers.Dense(2)(x))


@pytest.mark.parametrize("name", ["model.keras", "model"])
def test_models_that_take_text_are_exported(tmp_path, name):
    x = np.array([["a b"], ["c"], ["b a c"]])
    report = kprune.export(text_model(), tmp_path / name, calibration=x)
    assert report.samples == 3 and report.difference.max_abs == 0
    with pytest.raises(ValueError, match=r"'text' has dtype 'string'.*Pass"):
        kprune.export(text_model(), tmp_path / name)


@pytest.mark.parametrize("name", ["model.tflite", "model.onnx"])
def test_formats_without_text_say_so(tmp_path, name):
    x = np.array([["a b"], ["c"]])
    with pytest.raises(ValueError, match=r"text as input 'text'.*\.keras"):
        kprune.export(text_model(), tmp_path / name, calibration=x)


def test_bfloat16_inputs_calibrate(tmp_path):
    inputs = keras.Input((4,), dtype="bfloat16")
    model = keras.Model(inputs, layers.Dense(2)(inputs))
    x = np.random.default_rng(0).random((60, 4), "float32")
    report = kprune.export(model, tmp_path / "m.tflite", "int8", x)
    assert report.difference.max_rel < 0.05


def test_an_optional_input_that_is_left_out_is_named(tmp_path):
    class Sum(layers.Layer):
        def call(self, a, b=None):
            return a if b is None else a + b

    inputs = [
        keras.Input((4,), name="a"),
        keras.Input((4,), name="b", optional=True),
    ]
    model = keras.Model(inputs, layers.Dense(2)(Sum()(*inputs)))
    x = np.ones((60, 4), "float32")
    with pytest.raises(ValueError, match="`calibration` leaves out input 'b'"):
        kprune.export(model, tmp_path / "m.tflite", "int8", [x, None])
