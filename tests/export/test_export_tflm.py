"""Headers, run by TensorFlow Lite Micro itself where its wheel is there."""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest
from keras import layers

import kprune
from kprune.export.micro.source import from_c
from kprune.export.runtime import LiteRT

tflm = pytest.importorskip(
    "tflite_micro", reason="needs the wheel tflite-micro (Linux)"
)
pytestmark = pytest.mark.tensorflow


def network():
    x = inputs = keras.Input((16, 16, 3))
    x = stem = layers.Conv2D(8, 3, padding="same", activation="relu")(x)
    x = layers.DepthwiseConv2D(3, padding="same", activation="relu")(x)
    x = layers.Add()([layers.Conv2D(8, 1)(x), stem])
    x = layers.AveragePooling2D(4)(x)
    x = layers.Dense(4, activation="softmax")(layers.Flatten()(x))
    return keras.Model(inputs, x)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tflm")
    data = np.random.default_rng(0).standard_normal((32, 16, 16, 3))
    report = kprune.export(
        network(),
        folder / "model.h",
        quantize="int8",
        calibration=data.astype("float32"),
        io_dtype="int8",
    )
    return from_c((folder / "model.h").read_text("utf-8")), report.arena


def test_the_header_computes_what_litert_computes(exported, tmp_path):
    content, arena = exported
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    micro = tflm.runtime.Interpreter.from_bytes(content, arena_size=arena.total)
    reference = LiteRT(path)
    (spec,) = reference.inputs
    x = np.random.default_rng(1).integers(-128, 128, (1, 16, 16, 3), np.int8)
    micro.set_input(x, 0)
    micro.invoke()
    reference.prepare({spec.name: x})
    reference.invoke()
    (expected,) = reference.fetch().values()
    scales = micro.get_output_details(0)["quantization_parameters"]
    step = float(scales["scales"][0])
    found = step * (
        micro.get_output(0).astype(float) - scales["zero_points"][0]
    )
    # Kernels round alike but for the last digit.
    np.testing.assert_allclose(found, expected, atol=1.01 * step)
    assert np.ptp(expected) > 4 * step


def allocations(content, size, capfd):
    """What the interpreter says of its arena: activations, and all of it."""
    micro = tflm.runtime.Interpreter.from_bytes(content, arena_size=size)
    capfd.readouterr()
    micro.print_allocations()
    said = "".join(capfd.readouterr())
    (head,) = re.findall(r"allocation head (\d+) bytes", said)
    (total,) = re.findall(r"allocation total (\d+) bytes", said)
    return int(head), int(total)


def test_activations_take_what_was_planned(exported, capfd):
    content, arena = exported
    head, total = allocations(content, 2 * arena.total, capfd)
    assert head == arena.planned
    assert total <= arena.used <= arena.total


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Dense layers: what is known of scales takes more than activations do."""
    model = keras.Sequential(
        [keras.Input((40,)), *(layers.Dense(n) for n in (256, 8, 256, 40))]
    )
    data = np.random.default_rng(0).standard_normal((32, 40))
    path = tmp_path_factory.mktemp("tflm") / "wide.h"
    report = kprune.export(
        model,
        path,
        quantize="int8",
        calibration=data.astype("float32"),
        io_dtype="int8",
    )
    return from_c(path.read_text("utf-8")), report.arena


def test_the_estimate_is_close_to_what_is_used(wide, capfd):
    content, arena = wide
    _, used = allocations(content, 2 * arena.total, capfd)
    assert used <= arena.used <= 1.05 * used


def test_the_interpreter_starts_in_what_is_to_be_set_aside(wide, capfd):
    content, arena = wide
    # It does not start in what it uses later: a failure ends the process.
    assert arena.total > arena.used
    assert allocations(content, arena.total, capfd)[0] == arena.planned
