"""Which operators a model becomes, and what their widths depend on."""

import fake_device
import keras
import numpy as np
import pytest
from keras import layers

import kprune
from kprune.export.operators import tflite_operators
from kprune.latency import runtimes
from kprune.latency.conversion import Conversion
from kprune.latency.curve import anchors
from kprune.latency.layout import Layout
from kprune.tflite import OperatorFile

timer = runtimes.get("litert").measure
pytestmark = pytest.mark.tensorflow


def network():
    """Residual, depthwise, squeeze and excite, concatenation, flatten."""
    x = inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(24, 3, padding="same", name="stem")(x)
    y = layers.BatchNormalization()(x)
    y = layers.ReLU()(y)
    y = layers.Conv2D(20, 3, padding="same", use_bias=False, name="a")(y)
    y = layers.DepthwiseConv2D(3, padding="same")(y)
    y = layers.Conv2D(24, 1, name="b")(y)
    x = layers.Add()([x, y])
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(6, 1, activation="relu", name="squeeze")(gate)
    gate = layers.Conv2D(24, 1, activation="sigmoid", name="excite")(gate)
    x = layers.Multiply()([x, gate])
    y = layers.Conv2D(18, 3, strides=2, padding="same", name="c")(x)
    z = layers.MaxPooling2D(2)(x)
    x = layers.Concatenate()([y, z])
    x = layers.Conv2D(16, 1, groups=2, name="grouped")(x)
    x = layers.Flatten()(x)
    x = layers.Dense(30, activation="relu", name="dense")(x)
    return keras.Model(inputs, layers.Dense(5, name="head")(x))


@pytest.fixture(scope="module", params=["float32", "int8"])
def conversion(request):
    return Conversion(kprune.wrap(network()), request.param)


def test_widths_are_those_of_a_file_that_was_not_looked_at(conversion):
    masked = conversion._masked
    graph = kprune.trace(masked)
    rng = np.random.default_rng(3)
    kept = np.array([rng.integers(2, g.size) for g in graph.prunable])
    fresh = OperatorFile(conversion._convert(kept))
    varied = 0
    for op, placed in zip(
        fresh.operators, conversion.layout.operators, strict=True
    ):
        output = next(t.shape for t in op.tensors if t.output)
        if placed.writes is not None and op.kind != "RESHAPE":
            varied += 1
            written = int(placed.writes.of(kept))
            if "groups" not in placed.key and output[-1] % written:
                # The only width of a kernel may be the one that it reads.
                assert any(written == t.shape[-1] for t in op.tensors)
        if placed.reads is not None:
            read = int(placed.reads.of(kept))
            assert op.tensors[0].shape[-1] % read == 0
    assert varied > 10


def test_cut_operators_run_at_any_width(conversion, tmp_path):
    kinds = set()
    for position in range(len(conversion.layout.operators)):
        kind = conversion.kind(position)
        if kind in kinds or not conversion.resizable(position):
            continue
        kinds.add(kind)
        read, write = conversion.widths(position)
        for r in anchors(read, 1) if read else [0]:
            for w in (write, max(1, write // 2), 1):
                if not conversion.fitting(position, r, w):
                    continue
                path = tmp_path / "one.tflite"
                path.write_bytes(conversion.cut(position, r, w))
                assert tflite_operators(path).counts == {kind: 1}
                assert timer(path.read_bytes(), 1, 1, 0.0) > 0
    assert kinds == {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"}


def test_other_operators_are_cut_as_they_are(conversion):
    seen = 0
    for position in range(len(conversion.layout.operators)):
        if conversion.resizable(position):
            continue
        for _, _, content in conversion.observed(position):
            assert timer(content, 1, 1, 0.0) > 0
            seen += 1
    assert seen > 8


def test_a_file_with_nothing_to_do_runs(conversion):
    content = conversion.nothing()
    assert timer(content, 1, 1, 0.0) > 0
    (op,) = OperatorFile(content).operators
    assert {np.prod(t.shape) for t in op.tensors} == {1}


def test_operators_add_up_to_the_file(conversion):
    whole = fake_device.milliseconds(conversion.contents[0])
    alone = []
    for position in range(len(conversion.layout.operators)):
        content = conversion.files[0].cut(position)
        alone.append(fake_device.milliseconds(content) - fake_device.OVERHEAD)
    assert whole == pytest.approx(sum(alone) + fake_device.OVERHEAD)


def test_layouts_survive_json(conversion):
    layout = conversion.layout
    assert Layout.from_json(layout.to_json()) == layout


@pytest.mark.slow
def test_layers_left_out_do_not_vary():
    masked = kprune.wrap(network(), skip=["a", "dense"])
    layout = Conversion(masked, "float32").layout
    names = [group.name for group in kprune.trace(masked).prunable]
    assert "a" not in names
    convolution = next(
        op for op in layout.operators if "#FLOAT32[20,3" in op.key
    )
    assert convolution.reads is None
    assert {names[n] for n in convolution.writes.slopes} == {"stem", "stem:2"}


def test_a_model_of_one_batch_size_is_converted_with_it():
    inputs = keras.Input(batch_shape=(4, 6, 6, 2))
    x = layers.Conv2D(4, 3, name="a")(inputs)
    x = keras.ops.mean(keras.ops.reshape(x, (4, 16, 4)), axis=1)
    model = keras.Model(inputs, layers.Dense(3)(x))
    found = Conversion(kprune.wrap(model), "float32")
    (tensor, *_) = found.files[0].operators[0].tensors
    assert tensor.shape == (4, 6, 6, 2)


def test_removed_channels_do_not_compress_better_than_the_others():
    masked = kprune.wrap(network())
    session = kprune.Session(masked)
    whole = [group.size for group in session.graph.prunable]
    before = Conversion(masked, "int8").whole(np.array(whole))
    session.remove({"a": [1, 0] * 10, "dense": [1, 0, 0] * 10})
    weights = masked.get_weights()
    after = Conversion(masked, "int8").whole(np.array(whole))
    zeros = [content.count(0) for content in (before, after)]
    assert zeros[1] == pytest.approx(zeros[0], rel=0.1)
    for left, was in zip(masked.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(left, was)
