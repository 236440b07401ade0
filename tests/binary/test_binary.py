"""Binary filters: scales, gradients, bits, files."""

from __future__ import annotations

import json
import struct
import zlib

import keras
import numpy as np
import pytest
from fitting import arrays
from fitting import dataset
from fitting import loss
from fitting import small_net
from harness import difference
from harness import outputs
from harness import random_inputs
from models import dense_layers

import kprune
from kprune import binary
from kprune.binary import BinaryFilters
from kprune.binary.codec import decode
from kprune.binary.codec import encode


def compiled(model, rate=0.05):
    eager = keras.config.backend() != "jax"
    model.compile(keras.optimizers.SGD(rate), loss(), run_eagerly=eager)
    return model


def test_the_scale_is_the_one_of_least_squares():
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 3, 5, 10)).astype("float32")
    kernel[..., 6] = 0  # a filter that is gone
    found = keras.ops.convert_to_numpy(BinaryFilters(4).binary(kernel))
    for start in (0, 4, 8):
        part = kernel[..., start : start + 4].astype("float64")
        signs = np.sign(part)
        scale = (signs * part).sum() / (signs * signs).sum()
        np.testing.assert_allclose(
            found[..., start : start + 4], scale * signs, rtol=1e-5
        )
    one = keras.ops.convert_to_numpy(BinaryFilters(1).binary(kernel))
    means = np.abs(kernel).mean(axis=(0, 1, 2))
    np.testing.assert_allclose(np.abs(one).max(axis=(0, 1, 2)), means, 1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_scales_of_wide_layers_in_half_precision(dtype):
    """The sums over so many weights exceed float16, or do not grow in bfloat16."""
    kernel = np.random.default_rng(4).normal(size=(40_000, 5))
    kernel = (8 * kernel).astype("float32")
    half = keras.ops.cast(kernel, dtype)
    found = BinaryFilters().binary(half)
    assert keras.backend.standardize_dtype(found.dtype) == dtype
    scales = keras.ops.convert_to_numpy(keras.ops.cast(found, "float32"))
    means = [np.abs(kernel[:, :4]).mean()] * 4 + [np.abs(kernel[:, 4]).mean()]
    np.testing.assert_allclose(np.abs(scales).max(axis=0), means, rtol=1e-2)


def test_gradients_pass_straight_through_to_small_weights():
    model = compiled(dense_layers([6, 5], 4), rate=0.1)
    kernel = model.get_layer("d1").kernel
    value = np.array(keras.ops.convert_to_numpy(kernel))
    value[0] = 1.5
    kernel.assign(value)
    masked = kprune.wrap(model)
    assert binary.attach(masked, BinaryFilters(2)) == ["d1"]
    rng = np.random.default_rng(1)
    x = rng.normal(size=(16, 4)).astype("float32")
    y = rng.integers(0, 3, 16)
    # The gradient at the binary kernel, as plain Keras sees it.
    plain = compiled(keras.models.clone_model(model), rate=0.1)
    weights = model.get_weights()
    weights[2] = keras.ops.convert_to_numpy(BinaryFilters(2).binary(value))
    plain.set_weights(weights)
    plain.train_on_batch(x, y)
    step = plain.get_weights()[2] - weights[2]
    masked.train_on_batch(x, y)
    layer = masked.get_layer("d1").layer
    moved = keras.ops.convert_to_numpy(layer.kernel) - value
    assert np.abs(step).max() > 0
    np.testing.assert_allclose(moved[1:], step[1:], atol=1e-6)
    assert not moved[0].any()


def test_kernels_are_the_same_from_bits():
    rng = np.random.default_rng(2)
    signs = rng.choice([-1, 1], (3, 3, 4, 10)).astype("float32")
    scales = np.repeat(rng.random(4).astype("float32"), [4, 3, 2, 1])
    kernel = signs * scales
    found = encode(kernel)
    assert found.scales.size == 4 and found.lengths.tolist() == [4, 3, 2, 1]
    assert found.nbytes == -(-360 // 8) + 4 * 4 + 4 * 2
    np.testing.assert_array_equal(decode(found), kernel)
    kernel[0, 0, 0, 0] *= 1.5
    assert encode(kernel) is None
    assert encode(scales) is None
    assert encode(rng.random((1, 8)).astype("float32")) is None


@pytest.mark.parametrize(
    "reduce", [None, pytest.param({"macs": 0.4}, marks=pytest.mark.slow)]
)
def test_a_trained_model_and_its_file(tmp_path, reduce):
    model = compiled(small_net(16))
    r = kprune.recipe("cross-filter", reduce, epochs=2)
    masked = r.prepare(model)
    masked.fit(
        dataset(), epochs=2, callbacks=r.callbacks, verbose=0, shuffle=False
    )
    compact = kprune.rebuild(masked)
    left = kprune.cost(compact).macs / kprune.cost(model).macs
    assert left == 1 if reduce is None else 0.4 < left <= 0.6
    x = random_inputs(model)
    assert difference(outputs(masked, x), outputs(compact, x)) <= 1e-5
    for name in ("conv2", "conv3"):
        layer = compact.get_layer(name)
        assert type(layer) is keras.layers.Conv2D
        sizes = np.abs(layer.get_weights()[0]).reshape(-1, layer.filters)
        assert (sizes == sizes[0]).all() and len(set(sizes[0])) <= 4
    report = kprune.export(compact, tmp_path / "model.binary")
    assert report.size == (tmp_path / "model.binary").stat().st_size
    loaded = binary.load(tmp_path / "model.binary")
    assert type(loaded) is type(compact)
    for mine, theirs in zip(
        loaded.get_weights(), compact.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)
    known = binary.figures(compact)
    kernels = [
        compact.get_layer(n).get_weights()[0] for n in ("conv2", "conv3")
    ]
    assert known.signs == sum(kernel.size for kernel in kernels)
    assert known.others == compact.count_params() - known.signs
    assert known.bits == known.signs + 32 * (known.scales + known.others)
    assert known.plain == 32 * compact.count_params()
    assert str(known) in str(report)
    # The file holds the bits of theory, and an index.
    content = (tmp_path / "model.binary").read_bytes()
    (index,) = struct.unpack("<I", content[12:16])
    assert 0 <= 8 * (len(content) - 16 - index) - known.bits <= 16 * 16


def test_files_that_do_not_do(tmp_path):
    path = tmp_path / "model.binary"
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"not a file of binary kernels"):
        binary.load(path)
    binary.save(dense_layers([4], 2), path)
    with pytest.raises(ValueError, match=r"kprune\.binary\.load opens it"):
        kprune.load(path)
    content = path.read_bytes()
    cut = [content[:n] for n in (8, 10, 14, 40, len(content) - 3)]
    for broken in (*cut, content + b"1", content[:20] + content[25:]):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match="is damaged"):
            binary.load(path)
    (length,) = struct.unpack("<I", content[12:16])
    index = json.loads(zlib.decompress(content[16 : 16 + length]))
    assert [entry["shape"] for entry in index["weights"]] == [
        [2, 4],
        [4],
        [4, 3],
        [3],
    ]


def test_no_changed_bit_goes_unnoticed(tmp_path):
    path = tmp_path / "model.binary"
    binary.save(dense_layers([4], 2), path)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    weights = range(len(content) - 40, len(content))
    for place in (7, 8, 12, *rng.choice(len(content), 30), *weights):
        changed = bytearray(content)
        changed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=r"damaged|not a file of binary"):
            binary.load(path)


def test_files_without_a_checksum_load(tmp_path):
    path = tmp_path / "model.binary"
    model = dense_layers([4], 2)
    binary.save(model, path)
    content = path.read_bytes()
    path.write_bytes(b"kpbin\x00\x00\x01" + content[12:])
    for mine, theirs in zip(
        binary.load(path).get_weights(), model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)


def test_no_code_of_a_file_is_run(tmp_path):
    inputs = keras.Input((2,))
    ran = keras.layers.Lambda(lambda x: x + 1, output_shape=(2,))(inputs)
    binary.save(
        keras.Model(inputs, keras.layers.Dense(3)(ran)),
        tmp_path / "model.binary",
    )
    with pytest.raises(ValueError, match="lambda"):
        binary.load(tmp_path / "model.binary")


def test_there_must_be_a_layer_between_others():
    masked = kprune.wrap(compiled(dense_layers([6], 4)))
    with pytest.raises(ValueError, match="no layer whose kernel can be binary"):
        binary.attach(masked, BinaryFilters())


def test_what_is_attached_is_seen_at_once():
    model = compiled(dense_layers([6, 5], 4))
    masked = kprune.wrap(model)
    x = arrays(4)[0].reshape(4, -1)[:, :4]
    before = outputs(masked, x)
    binary.attach(masked, BinaryFilters(2))
    acting = outputs(masked, x)
    assert difference(before, acting) > 1e-3
    # A fit that is interrupted does not detach them.
    assert difference(acting, outputs(kprune.rebuild(masked), x)) <= 1e-6
    assert binary.detach(masked) == ["d1"]
    assert difference(acting, outputs(masked, x)) <= 1e-6


def test_weights_that_are_restored_later_are_told(caplog):
    r = kprune.recipe("cross-filter", epochs=2)
    masked = r.prepare(compiled(small_net(8)))
    stop = keras.callbacks.EarlyStopping("loss", restore_best_weights=True)
    masked.fit(dataset(), epochs=1, callbacks=[stop, *r.callbacks], verbose=0)
    assert "binary" not in caplog.text
    masked.fit(dataset(), epochs=1, callbacks=[*r.callbacks, stop], verbose=0)
    assert "EarlyStopping will restore float weights" in caplog.text


def test_what_has_no_effect_without_a_target_is_said(caplog):
    r = kprune.recipe("cross-filter", data=arrays(4), epochs=2, recover="bias")
    with pytest.raises(ValueError, match="nothing to recover from"):
        r.callbacks  # noqa: B018
    r = kprune.recipe("cross-filter", epochs=2, run_dir="runs")
    assert len(r.callbacks) == 2 and "no run is recorded" in caplog.text
    by_hand = kprune.allocation.get({"conv2": 0.5})
    r = kprune.recipe("cross-filter", epochs=2, allocation=by_hand)
    assert isinstance(r.callbacks[1], kprune.callbacks.PruneCallback)
