"""Every format, checked against the plain runtimes rather than our own."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from export import zoo

import kprune

STRUCTURES = {
    "conv_net": zoo.conv_net,
    "dict_inputs": lambda: zoo.two_inputs("dict"),
    "list_inputs": lambda: zoo.two_inputs("list"),
    "nested": zoo.nested,
    "grouped": zoo.grouped,
    "recurrent": zoo.recurrent,
    "attention_gelu": zoo.gelu_attention,
    "normalization": zoo.normalized,
}


def litert(path, **inputs):
    interpreter = Interpreter(model_path=str(path))
    return interpreter.get_signature_runner()(**inputs)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("suffix", [".tflite", ".onnx"])
def test_float32_files_agree_for_every_structure(tmp_path, structure, suffix):
    report = kprune.export(
        STRUCTURES[structure](), tmp_path / f"model{suffix}", samples=5
    )
    assert report.max_rel < 1e-5
    assert report.samples == 5
    assert report.operators and report.custom_operators == ()


@pytest.mark.parametrize("structure", ["dict_inputs", "list_inputs", "nested"])
@pytest.mark.parametrize("name", ["model.keras", "folder"])
def test_keras_and_saved_model_agree(tmp_path, structure, name):
    report = kprune.export(STRUCTURES[structure](), tmp_path / name, samples=5)
    assert report.max_rel < 1e-5
    assert report.operators == {}


def test_litert_gives_the_outputs_of_keras(tmp_path):
    model, x = zoo.conv_net(), zoo.images(1)
    kprune.export(model, tmp_path / "model.tflite")
    got = litert(tmp_path / "model.tflite", image=x)
    np.testing.assert_allclose(got["scores"], model(x), atol=1e-6)


def test_litert_names_inputs_and_outputs_by_dictionary_keys(tmp_path):
    model = zoo.two_inputs("dict")
    x = {
        "image": zoo.images(1),
        "tokens": np.array([[1, 2, 3, 4, 10]], "int32"),
    }
    kprune.export(model, tmp_path / "model.tflite")
    got, expected = litert(tmp_path / "model.tflite", **x), model(x)
    assert set(got) == {"a", "z"}
    for key in got:
        np.testing.assert_allclose(got[key], expected[key], atol=1e-6)


def test_litert_batch_is_one_by_default_and_dynamic_on_request(tmp_path):
    model, x = zoo.conv_net(), zoo.images(7)
    kprune.export(model, tmp_path / "one.tflite")
    kprune.export(model, tmp_path / "any.tflite", batch_size=None)
    kprune.export(model, tmp_path / "two.tflite", batch_size=2, samples=5)
    shapes = [
        list(
            Interpreter(
                model_path=str(tmp_path / f"{n}.tflite")
            ).get_input_details()[0]["shape_signature"][:1]
        )
        for n in ("one", "any", "two")
    ]
    assert shapes == [[1], [-1], [2]]
    got = litert(tmp_path / "any.tflite", image=x)["scores"]
    np.testing.assert_allclose(got, model(x), atol=1e-6)


def test_onnx_runtime_gives_the_outputs_of_keras_for_any_batch(tmp_path):
    ort = pytest.importorskip("onnxruntime")
    model = zoo.conv_net()
    kprune.export(model, tmp_path / "model.onnx")
    session = ort.InferenceSession(
        tmp_path / "model.onnx", providers=["CPUExecutionProvider"]
    )
    assert session.get_inputs()[0].shape == ["batch", 8, 8, 3]
    for count in (1, 3):
        x = zoo.images(count)
        (got,) = session.run(["scores"], {"image": x})
        np.testing.assert_allclose(got, model(x), atol=1e-6)


@pytest.mark.parametrize("opset", [13, 18])
def test_onnx_opset_is_chosen(tmp_path, opset):
    onnx = pytest.importorskip("onnx")
    kprune.export(zoo.conv_net(), tmp_path / "model.onnx", opset=opset)
    assert onnx.load(tmp_path / "model.onnx").opset_import[0].version == opset


def test_saved_model_serves_in_plain_tensorflow(tmp_path):
    model, x = zoo.conv_net(), zoo.images(3)
    report = kprune.export(model, tmp_path / "folder")
    loaded = tf.saved_model.load(str(tmp_path / "folder"))
    np.testing.assert_allclose(loaded.serve(x), model(x), atol=1e-6)
    files = [f for f in (tmp_path / "folder").rglob("*") if f.is_file()]
    assert report.size == sum(f.stat().st_size for f in files)


def test_keras_file_keeps_compilation(tmp_path):
    model = zoo.conv_net()
    model.compile("sgd", "categorical_crossentropy")
    kprune.export(model, tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(loaded.optimizer, keras.optimizers.SGD)


def test_keras_file_with_lambda_is_written_with_a_note(tmp_path):
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Lambda(lambda x: 2 * x)(inputs))
    report = kprune.export(model, tmp_path / "model.keras")
    assert "safe_mode=False" in str(report)
    assert report.max_abs == 0


@pytest.mark.parametrize(
    ("policy", "suffix"),
    [
        ("mixed_float16", ".tflite"),
        ("mixed_bfloat16", ".tflite"),
        ("float64", ".tflite"),
        ("mixed_float16", ".onnx"),
    ],
)
def test_other_precisions_are_written_in_float32(tmp_path, policy, suffix):
    model = zoo.mixed(policy)
    reference = zoo.conv_net()
    reference.set_weights(model.get_weights())
    report = kprune.export(model, tmp_path / f"model{suffix}")
    assert report.max_rel < 1e-5
    assert "computes in float32" in str(report)
    for name in ("conv", "norm", "scores"):
        assert model.get_layer(name).dtype_policy.name == policy
    if suffix == ".tflite":
        x = zoo.images(1)
        got = litert(tmp_path / "model.tflite", image=x)["scores"]
        np.testing.assert_allclose(got, reference(x), atol=1e-5)


def test_mixed_precision_normalization_is_restored(tmp_path):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = zoo.normalized()
    finally:
        keras.config.set_dtype_policy("float32")
    before = model(zoo.images(2))
    assert kprune.export(model, tmp_path / "model.tflite").max_rel < 1e-5
    after = model(zoo.images(2))
    assert after.dtype == before.dtype == "float16"
    np.testing.assert_array_equal(after, before)


def test_masked_model_is_rebuilt_with_a_log_line(tmp_path, caplog):
    model, x = zoo.conv_net(), zoo.images(1)
    masked = kprune.wrap(model)
    name, mask = next(iter(kprune.masks(masked).items()))
    kprune.set_masks(masked, {name: np.arange(len(mask)) % 2})
    with caplog.at_level("INFO", logger="kprune"):
        report = kprune.export(masked, tmp_path / "model.tflite")
    assert report.rebuilt and "is masked" in caplog.text
    plain = kprune.export(model, tmp_path / "plain.tflite")
    assert report.size < 0.75 * plain.size
    got = litert(tmp_path / "model.tflite", image=x)["scores"]
    np.testing.assert_allclose(got, masked(x), atol=1e-5)
