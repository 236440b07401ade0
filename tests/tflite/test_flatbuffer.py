"""`.tflite` files read and written, whole and damaged."""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from keras import layers

import kprune
from kprune.tflite import Flatbuffer
from kprune.tflite import OperatorFile
from kprune.tflite import dtype_names
from kprune.tflite import shape
from kprune.tflite.flatbuffer import pack

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3), name="image"),
            layers.Conv2D(4, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )
    path = tmp_path_factory.mktemp("tflite") / "model.tflite"
    kprune.export(model, path, samples=2)
    return path


def test_operators_and_tensors_are_those_of_the_interpreter(path):
    interpreter = Interpreter(
        model_path=str(path), experimental_op_resolver_type=_plain()
    )
    file = Flatbuffer.read(path)
    (graph,) = file.graphs
    kinds = [op["op_name"] for op in interpreter._get_ops_details()]
    assert [file.kind(op) for op in graph.operators] == kinds
    assert not any(map(file.is_custom, graph.operators))
    for index, tensor in enumerate(graph.tensors):
        detail = interpreter._get_tensor_details(index, 0)
        assert shape(tensor) == tuple(detail["shape"])
        name = dtype_names()[tensor.type].lower()
        assert name == np.dtype(detail["dtype"]).name
        if (data := file.constant(tensor)) is not None:
            constant = interpreter.get_tensor(index)
            assert bytes(data) == constant.tobytes()


def _plain():
    """Without the delegate, which puts operators of its own in place."""
    from ai_edge_litert.interpreter import OpResolverType

    return OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES


def test_what_is_written_computes_the_same(path):
    file = Flatbuffer.read(path)
    x = np.random.default_rng(0).normal(size=(1, 8, 8, 3)).astype("float32")
    first, second = (
        _run(content, x) for content in (path.read_bytes(), pack(file.model))
    )
    np.testing.assert_array_equal(first, second)


def _run(content, x):
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def test_an_operator_alone_computes_its_part(path):
    file = OperatorFile(path.read_bytes())
    kinds = [op.kind for op in file.operators]
    position = kinds.index("CONV_2D")
    wide = file.cut(position, {(1, 0): 7, (2, 0): 7, (3, 3): 7})
    (op,) = OperatorFile(wide).operators
    assert [t.shape for t in op.tensors if t.output] == [(1, 6, 6, 7)]
    x = np.random.default_rng(0).normal(size=(1, 8, 8, 3)).astype("float32")
    narrow = _run(file.cut(position), x)
    assert np.abs(narrow).max() > 0
    # Filters are repeated.
    np.testing.assert_allclose(_run(wide, x)[..., :4], narrow, rtol=1e-6)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99])
def test_a_file_cut_short_is_named(path, tmp_path, share):
    content = path.read_bytes()
    short = tmp_path / "short.tflite"
    short.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"short\.tflite' is damaged"):
        Flatbuffer.read(short)
    with pytest.raises(ValueError, match=r"short\.tflite' is damaged"):
        kprune.benchmark(short)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and more", b"{}" * 99])
def test_another_kind_of_file_is_named(tmp_path, content):
    other = tmp_path / "other.tflite"
    other.write_bytes(content)
    message = re.escape(f"first bytes, {content[:8]!r}")
    with pytest.raises(ValueError, match=message) as caught:
        kprune.benchmark(other)
    assert "other.tflite' is not a TensorFlow Lite model" in str(caught.value)


def test_references_to_nothing_are_damage(path):
    file = Flatbuffer.read(path)
    file.graphs[0].operators[0].inputs[0] = 999
    with pytest.raises(ValueError, match="is damaged"):
        Flatbuffer(pack(file.model))
    file = Flatbuffer.read(path)
    file.graphs[0].operators[0].opcodeIndex = 99
    with pytest.raises(ValueError, match="is damaged"):
        Flatbuffer(pack(file.model))


def test_an_operator_of_a_newer_schema_has_a_number(path):
    file = Flatbuffer.read(path)
    code = file.model.operatorCodes[file.graphs[0].operators[0].opcodeIndex]
    code.builtinCode = 9999
    newer = Flatbuffer(pack(file.model))
    assert newer.kind(newer.graphs[0].operators[0]) == "OPERATOR_9999"


def test_custom_operators_are_known_by_their_own_names(path):
    file = Flatbuffer.read(path)
    code = file.model.operatorCodes[file.graphs[0].operators[0].opcodeIndex]
    code.builtinCode, code.customCode = 32, b"FlexOwn"
    custom = Flatbuffer(pack(file.model))
    op = custom.graphs[0].operators[0]
    assert custom.kind(op) == "FlexOwn"
    assert custom.is_custom(op)
