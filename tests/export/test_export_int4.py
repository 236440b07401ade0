"""Files with weights of 4 bits, against NumPy and the LiteRT interpreter."""

from __future__ import annotations

import importlib.util
import json
import sys

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from keras import layers

import kprune
from kprune.export.int4 import mixture
from kprune.export.int4.matrices import MatrixFile
from kprune.export.int4.mixture import mixed
from kprune.export.int4.mixture import relative_error
from kprune.export.int4.rounding import LARGEST
from kprune.export.int4.rounding import best_scales
from kprune.export.int4.rounding import nearest
from kprune.export.int4.rounding import rounded
from kprune.export.runtime import LiteRT
from kprune.tflite import Flatbuffer
from kprune.tflite.flatbuffer import dtype_names

pytestmark = pytest.mark.tensorflow

needed = pytest.mark.skipif(
    importlib.util.find_spec("ai_edge_quantizer") is None,
    reason="needs kprune[edge]",
)


def network() -> keras.Model:
    """Convolutions of every kind, a dense layer, one that is called twice."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((12, 12, 3), name="image")
    x = layers.Conv2D(16, 3, strides=2, padding="same", name="stem")(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    twice = layers.Conv2D(16, 3, padding="same", use_bias=False, name="twice")
    x = layers.ReLU()(twice(layers.ReLU()(twice(x))))
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(5, name="scores")(x))


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return rng.standard_normal((120, 12, 12, 3)).astype("float32")


@pytest.fixture(scope="module")
def exported(data, tmp_path_factory):
    """The network, and its file and report of each kind."""
    model, folder = network(), tmp_path_factory.mktemp("int4")
    found, before = {}, model.get_weights()
    for kind in ("int8", "int4"):
        path = folder / f"{kind}.tflite"
        found[kind] = path, kprune.export(model, path, kind, calibration=data)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    return model, found


def weights_of(path) -> dict[str, list[str]]:
    """Return the number formats of the weights in a file, by operator."""
    file = Flatbuffer.read(path)
    (graph,) = file.graphs
    found: dict[str, list[str]] = {}
    for op in graph.operators:
        if file.kind(op) in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            tensor = graph.tensors[op.inputs[1]]
            found.setdefault(file.kind(op), []).append(
                dtype_names()[tensor.type]
            )
    return found


# -- rounding ----------------------------------------------------------------


def problem(columns=24, filters=6):
    rng = np.random.default_rng(1)
    mixing = rng.standard_normal((columns, columns))
    x = rng.standard_normal((500, columns)) @ mixing + 1
    ones = np.append(x, np.ones((len(x), 1)), axis=1)
    weights = rng.standard_normal((filters, columns)).astype("float32")
    return weights, x, ones.T @ ones / len(x)


def test_rounded_weights_lie_on_a_grid_of_15_values():
    weights, _, products = problem()
    found = rounded(weights, products, bias=True)
    levels = found.weights / found.scales[:, None]
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-4)
    assert np.abs(levels).max() <= LARGEST + 1e-4
    assert len(np.unique(np.rint(levels))) <= 15


def test_rounding_in_turn_changes_products_less_than_to_the_nearest():
    weights, x, products = problem()

    def error(found):
        bias = 0 if found.bias is None else found.bias
        apart = x @ (found.weights - weights).T + bias
        return np.mean(apart**2)

    plain = error(rounded(weights, None, bias=False))
    turns = error(rounded(weights, products, bias=False))
    corrected = error(rounded(weights, products, bias=True))
    assert corrected < turns < 0.6 * plain


def test_without_products_each_weight_goes_to_the_nearest():
    weights, _, _ = problem()
    found = rounded(weights, None, bias=True)
    assert found.bias is None
    grid = found.scales[:, None] * np.arange(-7, 8)
    expected = [
        [row[np.abs(row - weight).argmin()] for weight in weights_of_filter]
        for row, weights_of_filter in zip(grid, weights, strict=True)
    ]
    np.testing.assert_allclose(found.weights, expected, rtol=1e-5)


def test_scales_clip_what_lies_far_out():
    weights = np.append(np.linspace(-1, 1, 63), 3.0)[None]
    (scale,) = best_scales(weights)[0]
    assert scale < 3 / LARGEST
    whole = np.abs(nearest(weights, np.array([[3 / LARGEST]])) - weights)
    found = np.abs(nearest(weights, np.array([[scale]])) - weights)
    assert np.square(found).sum() < np.square(whole).sum()


def test_a_filter_of_zeros_stays_one():
    weights, _, products = problem()
    weights[2] = 0
    found = rounded(weights, products, bias=True)
    assert not found.weights[2].any() and np.isfinite(found.weights).all()


# -- files -------------------------------------------------------------------


@needed
def test_a_dense_layer_is_what_numpy_makes_of_its_integers(tmp_path):
    """Int8 inputs times int4 weights plus an int32 bias, all read from the file."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((16,)), layers.Dense(6)])
    x = np.random.default_rng(0).standard_normal((100, 16)).astype("float32")
    path = tmp_path / "m.tflite"
    kprune.export(model, path, "int4", x, io_dtype="int8")
    file = Flatbuffer.read(path)
    (graph,) = file.graphs
    (op,) = graph.operators
    detail = Interpreter(model_path=str(path)).get_input_details()[0]
    assert detail["dtype"] == np.int8
    given, weight, bias, result = (
        graph.tensors[i] for i in [*op.inputs, *op.outputs]
    )
    packed = np.frombuffer(bytes(file.constant(weight)), np.uint8)
    halves = np.stack([packed & 15, packed >> 4], axis=1).reshape(6, 16)
    levels = np.where(halves > 7, halves.astype(int) - 16, halves)
    assert np.abs(levels).max() <= 7
    offsets = np.frombuffer(bytes(file.constant(bias)), np.int32)
    step = given.quantization.scale[0]
    low = given.quantization.zeroPoint[0]
    q = np.clip(np.rint(x[:8] / step) + low, -128, 127).astype(int)
    sums = (q - low) @ levels.T + offsets
    expected = sums * step * weight.quantization.scale
    got = LiteRT(path).run_batched({"input_layer": x[:8]})
    (got,) = got.values()
    out = result.quantization.scale[0]
    np.testing.assert_allclose(got, expected, atol=0.51 * out)
    np.testing.assert_allclose(got, model(x[:8]), atol=0.5)


@needed
def test_int4_holds_4_bits_where_kernels_are(exported):
    _, found = exported
    path, report = found["int4"]
    assert weights_of(path) == {
        "CONV_2D": ["INT4"] * 3,
        "DEPTHWISE_CONV_2D": ["INT8"],
        "FULLY_CONNECTED": ["INT4"],
    }
    assert report.quantize == "int4"
    assert "convolutions with 4-bit weights" in str(report)
    assert report.size < found["int8"][1].size


@needed
def test_int4_computes_nearly_what_keras_does(exported, data):
    model, found = exported
    expected = model.predict(data, verbose=0)
    errors = {}
    for kind, (path, _) in found.items():
        (got,) = LiteRT(path).run_batched({"image": data}).values()
        errors[kind] = relative_error([expected], [got])
    assert errors["int8"] < errors["int4"] < 0.2


@needed
@pytest.mark.slow
def test_rounding_in_turn_pays_in_the_file(
    exported, data, monkeypatch, tmp_path
):
    model, found = exported

    def plain(weights, products, bias):
        return rounded(weights, None, bias)

    monkeypatch.setattr("kprune.export.int4.quantize.rounded", plain)
    path = tmp_path / "m.tflite"
    kprune.export(model, path, "int4", calibration=data)
    expected = model.predict(data, verbose=0)
    errors = [
        relative_error(
            [expected], [*LiteRT(file).run_batched({"image": data}).values()]
        )
        for file in (found["int4"][0], path)
    ]
    assert errors[0] < 0.8 * errors[1]


@needed
def test_inputs_and_outputs_are_floats_if_not_asked_otherwise(exported):
    _, found = exported
    interpreter = Interpreter(model_path=str(found["int4"][0]))
    for details in (
        interpreter.get_input_details(),
        interpreter.get_output_details(),
    ):
        assert details[0]["dtype"] == np.float32


def test_matrices_are_those_that_kernels_take(exported, tmp_path):
    model, _ = exported
    kprune.export(model, tmp_path / "m.tflite")
    file = MatrixFile((tmp_path / "m.tflite").read_bytes())
    kinds = [(m.kind, len(m.positions)) for m in file.matrices]
    assert kinds == [("CONV_2D", 1), ("CONV_2D", 2), ("FULLY_CONNECTED", 1)]
    assert [m.weights.shape for m in file.matrices] == [
        (16, 27),
        (16, 144),
        (5, 16),
    ]


# -- mixed -------------------------------------------------------------------


class Fake:
    """A file whose outputs are off by an amount for each matrix of 4 bits."""

    names = ("a", "b", "c")

    def __init__(self):
        self.costs = {"a": 0.0, "b": 0.3, "c": 0.1}

    def sizes(self):
        return {"a": 10, "b": 1000, "c": 100}

    def content(self, chosen):
        saved = sum(self.sizes()[name] for name in chosen)
        off = 0.1 + sum(self.costs[name] for name in chosen)
        return json.dumps([off]).encode().ljust(2000 - saved)

    def rounded(self, name):
        return json.dumps([self.costs[name]]).encode()


def choose(**limits):
    reference = [np.ones((4, 3), "float32")]

    def run(path):
        (off,) = json.loads(path.read_text())
        return [reference[0] + off]

    return mixed(Fake(), reference, run, **limits)


def test_layers_that_cost_least_for_their_bytes_have_4_bits():
    assert choose(error_limit=1)[0] == ["a"]
    # b costs more than c, but far less for each byte.
    assert choose(error_limit=4)[0] == ["a", "b"]
    assert choose(error_limit=5.01)[0] == ["a", "b", "c"]
    names, told = choose()
    assert names == ["a"] and mixture.ERROR_LIMIT == 2
    assert "4 bits in 1 of 3 layers" in told


def test_a_size_limit_takes_as_few_as_it_can():
    assert choose(size_limit=2000)[0] == []
    assert choose(size_limit=1990)[0] == ["a"]
    assert choose(size_limit=1500)[0] == ["a", "b"]
    assert choose(size_limit=890)[0] == ["a", "b", "c"]
    with pytest.raises(ValueError, match="in all layers the file has 890"):
        choose(size_limit=889)


@needed
@pytest.mark.slow
def test_a_mixed_file_keeps_its_limit(exported, data, tmp_path):
    model, found = exported
    path = tmp_path / "m.tflite"
    between = (found["int8"][1].size + found["int4"][1].size) // 2
    report = kprune.export(model, path, "mixed", data, size_limit=between)
    assert found["int4"][1].size < report.size <= between
    formats = [name for names in weights_of(path).values() for name in names]
    assert {"INT4", "INT8"} == set(formats)
    assert "of 3 layers" in str(report)


# -- what is refused ---------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("int8", {"size_limit": 1000}, "quantize='mixed'"),
        ("mixed", {"size_limit": 1, "error_limit": 2}, "not both"),
        ("mixed", {"error_limit": 0.5}, "error_limit"),
        ("mixed", {"size_limit": 0}, "size_limit"),
        ("int4", {"clusters": 16}, "would be lost"),
        ("int4", {"batch_size": None}, "fixed `batch_size`"),
    ],
)
def test_options_that_do_not_go_together(
    data, tmp_path, kind, options, message
):
    with pytest.raises(ValueError, match=message):
        kprune.export(network(), tmp_path / "m.tflite", kind, data, **options)
    assert list(tmp_path.iterdir()) == []


def test_4_bits_need_calibration_data(tmp_path):
    with pytest.raises(
        ValueError, match='quantize="int4"` needs representative'
    ):
        kprune.export(network(), tmp_path / "m.tflite", "int4")


def test_recurrent_layers_are_refused(tmp_path):
    model = keras.Sequential([keras.Input((4, 3)), layers.GRU(5)])
    x = np.zeros((60, 4, 3), "float32")
    with pytest.raises(ValueError, match=r"recurrent.*'dynamic'"):
        kprune.export(model, tmp_path / "m.tflite", "mixed", x)


@needed
def test_a_model_without_such_layers_is_refused(tmp_path):
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.DepthwiseConv2D(3)]
    )
    x = np.random.default_rng(0).standard_normal((60, 8, 8, 3))
    with pytest.raises(ValueError, match="quantize='int8'"):
        kprune.export(model, tmp_path / "m.tflite", "int4", x)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_names_the_extra(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_quantizer", None)
    with pytest.raises(ImportError, match=r"kprune\[edge\]"):
        kprune.export(network(), tmp_path / "m.tflite", "int4", data)
    assert list(tmp_path.iterdir()) == []


def test_headers_have_no_4_bits(data, tmp_path):
    with pytest.raises(ValueError, match="C array export takes quantize"):
        kprune.export(network(), tmp_path / "m.h", "int4", data)


@needed
def test_unknown_sizes_that_cannot_be_calibrated_are_named(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((None, None, 3), name="image"),
            layers.Conv2D(4, 3),
            layers.GlobalAveragePooling2D(),
        ]
    )
    x = np.random.default_rng(0).standard_normal((60, 8, 8, 3))
    with pytest.raises(ValueError, match=r"'image' \(None, None, None, 3\)"):
        kprune.export(model, tmp_path / "m.tflite", "int4", x)
