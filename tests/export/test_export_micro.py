"""C arrays for microcontrollers: a compiler reads what LiteRT ran."""

from __future__ import annotations

import re
import shutil
import subprocess

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from export import zoo

import kprune
from kprune.export.micro.resolver import resolver_method
from kprune.export.micro.source import from_c
from kprune.export.micro.source import to_c

COMPILER = shutil.which("cc") or shutil.which("gcc")
CXX = shutil.which("c++") or shutil.which("g++")

# Dumps the array, and fails if it is not aligned.
PROGRAM = """
#include <stdio.h>
#include <stdint.h>
#include "my-net.h"
#include "my-net.h"
int main(void) {
  if ((uintptr_t)my_net_tflite % 16 != 0) return 2;
  if (sizeof(my_net_tflite) != my_net_tflite_len) return 3;
  if (MY_NET_TFLITE_ARENA_SIZE < 16) return 4;
  fwrite(my_net_tflite, 1, my_net_tflite_len, stdout);
  return 0;
}
"""


@pytest.fixture(scope="module")
def header(tmp_path_factory):
    """A network as `.h` and as `.tflite`, with the reports of both."""
    keras.utils.set_random_seed(0)
    folder = tmp_path_factory.mktemp("micro")
    model = zoo.conv_net()
    arguments = {
        "quantize": "int8",
        "calibration": zoo.images(40),
        "io_dtype": "int8",
    }
    array = kprune.export(model, folder / "my-net.h", **arguments)
    plain = kprune.export(model, folder / "my-net.tflite", **arguments)
    return folder, array, plain


@pytest.mark.parametrize(
    ("compiler", "flags"),
    [
        (COMPILER, ["-x", "c", "-std=c99"]),
        (COMPILER, ["-x", "c", "-std=c11", "-pedantic"]),
        (CXX, ["-x", "c++", "-std=c++17", "-pedantic"]),
    ],
    ids=["c99", "c11", "c++17"],
)
def test_a_compiler_reads_the_bytes_of_the_tflite_file(
    header, tmp_path, compiler, flags
):
    if compiler is None:
        pytest.skip("no C or C++ compiler on this machine")
    folder, _, _ = header
    (tmp_path / "main.c").write_text(PROGRAM)
    subprocess.run(
        [
            *(compiler, *flags, "-Wall", "-Wextra", "-Werror"),
            *(f"-I{folder}", "main.c", "-o", "main"),
        ],
        cwd=tmp_path,
        check=True,
    )
    done = subprocess.run([tmp_path / "main"], capture_output=True, check=True)
    assert done.stdout == (folder / "my-net.tflite").read_bytes()


def test_the_header_is_verified_and_measured_as_the_tflite_file(header):
    folder, array, plain = header
    assert array.difference == plain.difference
    assert array.size == plain.size
    assert array.size == (folder / "my-net.tflite").stat().st_size
    assert array.compressed_size == plain.compressed_size
    assert array.operators == plain.operators
    assert plain.arena is None and array.arena.total > array.arena.planned
    assert "tensor arena: about" in str(array)
    assert array.to_dict()["arena"]["total"] == array.arena.total


def test_the_comment_tells_the_interface(header):
    folder, array, _ = header
    text = (folder / "my-net.h").read_text()
    interpreter = Interpreter(model_path=str(folder / "my-net.tflite"))
    detail = interpreter.get_input_details()[0]
    found = re.search(
        r"Input 0: image int8 \(1, 8, 8, 3\), scale (\S+), zero point (\S+)",
        text,
    )
    assert np.float32(found[1]) == np.float32(detail["quantization"][0])
    assert int(found[2]) == detail["quantization"][1]
    assert (
        "Output 0: scores int8 (1, 4), scale 0.00390625, zero point -128"
        in (text)
    )
    calls = re.findall(r"resolver\.(Add\w+)\(\);", text)
    assert calls == [
        "AddConv2D",
        "AddReshape",
        "AddFullyConnected",
        "AddSoftmax",
    ]
    assert f"MicroMutableOpResolver<{len(array.operators)}>" in text
    assert f"MY_NET_TFLITE_ARENA_SIZE {array.arena.total}" in text


def test_several_inputs_of_a_float_model_are_named(tmp_path):
    images = keras.Input((4, 4, 1), name="image")
    numbers = keras.Input((3,), name="numbers")
    x = keras.layers.Concatenate()([keras.layers.Flatten()(images), numbers])
    x = keras.layers.Dense(4)(x)
    outputs = {"a": keras.layers.Dense(2)(x), "b": keras.layers.Dense(1)(x)}
    model = keras.Model({"numbers": numbers, "image": images}, outputs)
    report = kprune.export(
        kprune.wrap(model), tmp_path / "7 ways.h", symbol="WAYS"
    )
    text = (tmp_path / "7 ways.h").read_text()
    assert report.rebuilt and report.max_rel < 1e-5
    for name in ("image float32 (1, 4, 4, 1)", "numbers float32 (1, 3)"):
        assert re.search(rf"Input \d: {re.escape(name)}\n", text)
    assert "const unsigned char WAYS[] = {" in text
    assert [p.name for p in tmp_path.iterdir()] == ["7 ways.h"]


def test_symbols_are_c_identifiers(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    for file, symbol in (
        ("7.h", "model_7_tflite"),
        ("größe.h", "gr__e_tflite"),
    ):
        kprune.export(model, tmp_path / file, samples=1)
        assert f" {symbol}[] = {{" in (tmp_path / file).read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": None}, "integer `batch_size`"),
        ({"symbol": "my-net"}, "C identifier"),
        ({"symbol": 3}, "C identifier"),
        ({"symbol": "int"}, "keyword"),
        ({"symbol": "class"}, "keyword"),
        ({"quantize": "float16"}, "takes quantize=None, 'int8'"),
        ({"opset": 13}, "no option 'opset'"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        kprune.export(zoo.conv_net(), tmp_path / "m.h", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_unknown_shapes_are_refused(tmp_path):
    model = keras.Sequential(
        [keras.Input((None, None, 3), name="image"), keras.layers.Conv2D(2, 3)]
    )
    with pytest.raises(ValueError, match="'image' has the shape"):
        kprune.export(model, tmp_path / "m.h")


def test_operators_without_a_kernel_are_told(tmp_path, caplog):
    inputs = keras.Input((4, 3))
    model = keras.Model(inputs, keras.ops.sort(inputs, axis=1))
    report = kprune.export(model, tmp_path / "m.h")
    assert report.custom_operators == ("TOPK_V2",)
    assert "no kernels for TOPK_V2" in caplog.text
    assert "// TOPK_V2: TensorFlow Lite Micro has no such kernel" in (
        (tmp_path / "m.h").read_text()
    )


@pytest.mark.parametrize(
    ("operator", "method"),
    [
        ("CONV_2D", "AddConv2D"),
        ("PADV2", "AddPadV2"),
        ("L2_POOL_2D", "AddL2Pool2D"),
        ("UNIDIRECTIONAL_SEQUENCE_LSTM", "AddUnidirectionalSequenceLSTM"),
        ("RELU_N1_TO_1", None),
        ("CUSTOM", None),
    ],
)
def test_methods_of_the_resolver(operator, method):
    assert resolver_method(operator) == method


@pytest.mark.parametrize("count", [1, 11, 12, 13])
def test_source_holds_any_number_of_bytes(count):
    content = np.random.default_rng(count).bytes(count)
    text = to_c(content, "name", ["ends */ here"], arena=16)
    assert from_c(text) == content
    assert text.count("*/") == text.count("/*") == 4


def test_other_headers_are_refused():
    with pytest.raises(ValueError, match="holds no array"):
        from_c("#define X 1")
