"""Few different weights per kernel, for files that pack well."""

from __future__ import annotations

import importlib.util

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from export import digits
from export import zoo
from keras import layers

import kprune

if importlib.util.find_spec("tensorflow_model_optimization") is None:
    pytest.skip("needs kprune[tfmot]", allow_module_level=True)

from kprune.export.tfmot.clusters import k_means


@pytest.fixture(scope="module")
def model():
    return digits.trained()


def plain():
    """Kernels that nothing is folded into on the way to the file."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.DepthwiseConv2D(3),
            layers.Conv2D(64, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )


def kernels(path):
    """The constant tensors of a file with more than one axis, dequantised."""
    interpreter = Interpreter(
        model_path=str(path),
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=_plain_kernels(),
    )
    interpreter.allocate_tensors()
    # Float16 kernels are unpacked by the first call.
    (given,) = interpreter.get_input_details()
    interpreter.set_tensor(
        given["index"], np.zeros(given["shape"], given["dtype"])
    )
    interpreter.invoke()
    tensors = []
    for detail in interpreter.get_tensor_details():
        try:
            tensor = interpreter.get_tensor(detail["index"])
        except ValueError:
            continue
        parameters = detail["quantization_parameters"]
        constant = len(detail["shape"]) in (2, 4) and detail["shape"][0] > 1
        if constant and tensor.size > 300:
            tensors.append((tensor, parameters))
    return tensors


def _plain_kernels():
    from ai_edge_litert.interpreter import OpResolverType

    return OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES


@pytest.mark.parametrize(
    "clusters", [16, pytest.param(2, marks=pytest.mark.slow)]
)
def test_kernels_have_few_values_and_files_pack_better(tmp_path, clusters):
    model = plain()
    before = kprune.export(model, tmp_path / "plain.tflite")
    path = tmp_path / "clustered.tflite"
    report = kprune.export(model, path, clusters=clusters)
    found = [tensor for tensor, _ in kernels(path)]
    assert len(found) == 3
    for tensor in found:
        assert len(set(tensor.ravel().tolist())) <= clusters
    assert report.size <= 1.01 * before.size
    assert report.compressed_size < 0.4 * before.compressed_size
    assert report.tolerance == 1
    assert f"kernels clustered to {clusters} weights: 3" in str(report)


@pytest.mark.parametrize(
    "quantize",
    ["float16", "int8", pytest.param("qat", marks=pytest.mark.slow)],
)
def test_clusters_survive_quantisation(tmp_path, quantize):
    model = plain()
    x = zoo.images(64)
    data = {"data": (x, np.zeros((64, 10), "float32")), "loss": "mse"}
    before = kprune.export(
        model,
        tmp_path / "plain.tflite",
        quantize=quantize,
        calibration=x,
        **(data if quantize == "qat" else {}),
    )
    path = tmp_path / "clustered.tflite"
    report = kprune.export(
        model, path, quantize=quantize, clusters=16, calibration=x, **data
    )
    for tensor, parameters in kernels(path):
        # Each channel has a scale of its own and maps the values on other
        # integers.
        parts = tensor if len(parameters["scales"]) > 1 else [tensor]
        for part in parts:
            assert len(set(part.ravel().tolist())) <= 16
    assert report.quantize == quantize
    assert report.compressed_size < 0.85 * before.compressed_size


@pytest.mark.parametrize(
    ("quantize", "trains"),
    [
        (None, False),
        ("int8", True),
        pytest.param("dynamic", True, marks=pytest.mark.slow),
        pytest.param("qat", True, marks=pytest.mark.slow),
    ],
)
def test_accuracy_survives(model, tmp_path, quantize, trains):
    train, _ = digits.data()
    path = tmp_path / "m.tflite"
    data = {"data": train} if trains else {}
    kprune.export(model, path, quantize, clusters=16, **data)
    assert digits.accuracy(path) >= digits.keras_accuracy(model) - 0.02


def test_batch_normalisation_and_the_model_are_left_alone(model, tmp_path):
    before = model.get_weights()
    kprune.export(model, tmp_path / "m.tflite", clusters=4)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_nested_and_shared_layers(tmp_path):
    shared = layers.Dense(40, activation="relu")
    net = keras.Sequential([keras.Input((40,)), shared, layers.Dense(40)])
    a, b = keras.Input((40,), name="a"), keras.Input((40,), name="b")
    model = keras.Model([a, b], net(a) + net(b) + shared(a))
    report = kprune.export(model, tmp_path / "m.tflite", clusters=8)
    assert "kernels clustered to 8 weights: 2" in str(report)
    assert report.max_rel < 0.3


def test_nothing_to_cluster_is_an_error(tmp_path):
    inputs = keras.Input((2,))
    model = keras.Model(inputs, layers.Dense(2)(inputs), name="tiny")
    with pytest.raises(ValueError, match="'tiny' has no convolution or Dense"):
        kprune.export(model, tmp_path / "m.tflite", clusters=16)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_cannot_be_recreated_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="`clusters` needs model 'recurrent'"):
        kprune.export(zoo.recurrent(), tmp_path / "m.tflite", clusters=16)


def test_what_cannot_be_rounded_in_training_is_clustered_all_the_same(
    tmp_path, caplog
):
    inputs = keras.Input((16, 8))
    model = keras.Model(inputs, layers.Conv1D(32, 3)(inputs), name="sequence")
    x = np.random.default_rng(0).standard_normal((64, 16, 8)).astype("float32")
    report = kprune.export(
        model,
        tmp_path / "m.tflite",
        quantize="qat",
        clusters=8,
        data=(x, np.zeros((64, 14, 32), "float32")),
        loss="mse",
    )
    assert report.quantize == "int8"
    assert "kernels clustered to 8 weights: 1" in str(report)
    assert "'sequence' has no layer that TF-MOT covers" in caplog.text


@pytest.mark.parametrize("clusters", [1, 0, 2.0, True, "16"])
def test_clusters_are_checked(tmp_path, clusters):
    with pytest.raises(ValueError, match="2 or more, as `clusters`"):
        kprune.export(plain(), tmp_path / "m.tflite", clusters=clusters)


def test_means_of_clusters():
    rng = np.random.default_rng(0)
    weights = np.concatenate(
        [rng.normal(center, 0.01, 50) for center in (-1, 0, 3)]
    )
    found = k_means(weights, np.array([0.0, 0.1, 0.2, 9.0]))
    np.testing.assert_allclose(found[[0, 1, 2]], [-1, 0, 3], atol=0.02)
    # Nothing was ever next to the last one.
    assert found[3] == 9


def test_means_never_get_worse():
    rng = np.random.default_rng(1)
    weights = rng.standard_t(3, 500)
    start = rng.choice(weights, 8, replace=False)

    def error(centroids):
        return (np.abs(weights[:, None] - centroids).min(1) ** 2).mean()

    assert error(k_means(weights, start)) < error(start)
