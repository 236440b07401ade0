"""Runtimes beside LiteRT: the one that docs/latency.md writes, ONNX Runtime."""

import keras
import pages
import pytest
from keras import layers

import kprune
from kprune.latency import Latency
from kprune.latency import runtimes
from kprune.latency.conversion import file_of

pytestmark = pytest.mark.tensorflow


@pytest.mark.slow
def test_the_worked_example(monkeypatch, tmp_path):
    monkeypatch.setattr(runtimes.base.registry, "_factories", {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (source,) = [
        block
        for block in pages.blocks(pages.DOCS / "latency.md", "python")
        if block.code.startswith('"""my_npu.py')
    ]
    source.run({"__name__": "my_npu"})
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(96, 3, activation="relu"),
            layers.Conv2D(64, 3),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4),
        ]
    )
    masked = kprune.prune(
        model, "l1", {"latency": 0.4}, Latency(runtime="my-npu")
    )
    (file,) = (tmp_path / "kprune" / "latency").iterdir()
    # Its files have int8 inputs and outputs, as it says.
    kinds = {key.partition("(")[0] for key in kprune.latency.load(file).keys}
    assert "CONV_2D" in kinds and "QUANTIZE" not in kinds
    npu = runtimes.get("my-npu")
    before, after = (
        npu.measure(file_of(m, "int8", "int8"), 1, 1, 0.0)
        for m in (model, kprune.rebuild(masked))
    )
    assert after <= 0.6 * before * 1.01


@pytest.mark.slow
def test_onnx_runtime_has_a_time_of_its_own():
    pytest.importorskip("tf2onnx", reason="needs the extra onnx")
    runtime = runtimes.get("onnxruntime")
    inputs = keras.Input((24, 24, 8))
    few, many = (
        keras.Model(inputs, layers.Conv2D(n, 3)(inputs)) for n in (4, 256)
    )
    with pytest.raises(
        ValueError, match=r"runs float32\. Received: dtype='int8"
    ):
        kprune.latency.profile(few, "onnxruntime", dtype="int8")
    times = [
        runtime.measure(file_of(m, "float32", "float32"), 1, 10, 0.01)
        for m in (few, many)
    ]
    assert 0 < times[0] < times[1]


def test_runtimes_are_called_by_name():
    assert runtimes.get(runtimes.LiteRT()).name == "litert"
    assert runtimes.get(runtimes.Ethos("u65-256")).name == "ethos-u65-256"
    with pytest.raises(
        ValueError, match=r"'litert' takes no option.*'litert/x'"
    ):
        runtimes.get("litert/x")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2)(inputs))
    with pytest.raises(ValueError, match=r"this one has none.*register\("):
        kprune.latency.profile(model, lambda *given: 1.0)
