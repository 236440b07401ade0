"""Every format for every structure, as given and rebuilt, run without kprune."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from export import zoo

import kprune

STRUCTURES = {
    "nested": zoo.nested,
    "list": functools.partial(zoo.siblings, "list"),
    "dict": functools.partial(zoo.siblings, "dict"),
}


def halved(model: keras.Model) -> keras.Model:
    """The compact model with every other prunable channel."""
    masked = kprune.wrap(model)
    masks = {
        name: np.arange(len(mask)) % 2
        for name, mask in kprune.masks(masked).items()
    }
    kprune.set_masks(masked, masks)
    return kprune.rebuild(masked)


def random_inputs(model, count):
    rng = np.random.default_rng(0)
    return {
        tensor.name: rng.standard_normal((count, *tensor.shape[1:])).astype(
            "float32"
        )
        for tensor in model.inputs
    }


def packed(model, x):
    """Arrays by name as the model takes them."""
    return keras.tree.map_structure(lambda tensor: x[tensor.name], model.input)


def flat(outputs):
    return [np.asarray(y) for y in keras.tree.flatten(outputs)]


def run_tflite(path, model, x):
    interpreter = Interpreter(model_path=str(path))
    runner = interpreter.get_signature_runner()
    names = list(runner.get_input_details())
    got = runner(
        **{
            name: x[tensor.name]
            for name, tensor in zip(
                _names(model, names), model.inputs, strict=True
            )
        }
    )
    return _ordered(model, got)


def run_onnx(path, model, x):
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    feed = {
        name: x[tensor.name]
        for name, tensor in zip(_names(model, names), model.inputs, strict=True)
    }
    outputs = [each.name for each in session.get_outputs()]
    return _ordered(
        model, dict(zip(outputs, session.run(None, feed), strict=True))
    )


def _names(model, names):
    """Input names of a file in the order of the model's inputs."""
    known = [t.name for t in model.inputs]
    return known if set(known) == set(names) else names


def _ordered(model, outputs):
    if isinstance(model.output, dict):
        return [outputs[key] for key in sorted(outputs)]
    names = [t._keras_history.operation.name for t in model.outputs]
    return [outputs[name] for name in names]


def run_saved_model(path, model, x):
    loaded = tf.saved_model.load(str(path))
    return flat(loaded.serve(packed(model, x)))


def run_keras(path, model, x):
    return flat(keras.models.load_model(path)(packed(model, x)))


RUNNERS = {
    "m.tflite": run_tflite,
    "m.onnx": run_onnx,
    "m": run_saved_model,
    "m.keras": run_keras,
}


@pytest.mark.parametrize("name", RUNNERS)
@pytest.mark.parametrize(
    "compact",
    [pytest.param(False, marks=pytest.mark.slow), True],
    ids=["given", "compact"],
)
@pytest.mark.parametrize("structure", STRUCTURES)
def test_plain_runtimes_give_the_outputs_of_keras(
    tmp_path, structure, compact, name
):
    """Batches of 1 and 3; for `.tflite` the batch is made dynamic."""
    model = STRUCTURES[structure]()
    if compact:
        before = model.count_params()
        model = halved(model)
        assert model.count_params() < 0.7 * before
    options = {"batch_size": None} if name == "m.tflite" else {}
    report = kprune.export(model, tmp_path / name, samples=2, **options)
    assert report.max_rel < 1e-5
    for count in (1, 3):
        x = random_inputs(model, count)
        got = RUNNERS[name](tmp_path / name, model, x)
        expected = flat(model(packed(model, x)))
        for one, other in zip(got, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_masked_model_is_written_compact_as_c_array(tmp_path):
    model = zoo.siblings("dict")
    masked = kprune.prune(model, reduce={"params": 0.4})
    report = kprune.export(masked, tmp_path / "m.h", samples=2)
    plain = kprune.export(model, tmp_path / "plain.h", samples=2)
    assert report.rebuilt and report.max_rel < 1e-5
    assert report.size < plain.size
    assert report.size_before == plain.size_before
