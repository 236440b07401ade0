"""Artefacts in processes that know nothing of kprune."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
from export import zoo

import kprune

# One process for all: importing TensorFlow takes longer than everything else.
LOAD = """
import sys
sys.modules["kprune"] = None  # `import kprune` raises ImportError
import keras, numpy as np, tensorflow as tf
x = np.load("x.npy")
extra = np.load("extra.npy")
model = keras.models.load_model("compact.keras", safe_mode=True)
loaded = tf.saved_model.load("compact")
layer = keras.layers.TFSMLayer("compact", call_endpoint="serve")
inputs = keras.Input(x.shape[1:])
wrapped = keras.Model(inputs, layer(inputs))
two = tf.saved_model.load("pair")
pair = two.serve({"image": x, "extra": extra})
np.savez(
    "got.npz",
    keras=model(x),
    saved_model=loaded.serve(x),
    layer=wrapped(x),
    z=pair["z"],
    a=pair["a"],
)
"""


def run(code, folder, **environment):
    # Away from the repository root, and without paths that lead to it.
    variables = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**variables, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        capture_output=True,
        text=True,
    )


def test_compact_files_need_no_kprune(tmp_path):
    masked = kprune.wrap(zoo.conv_net())
    name, mask = next(iter(kprune.masks(masked).items()))
    kprune.set_masks(masked, {name: np.arange(len(mask)) > 1})
    kprune.export(masked, tmp_path / "compact.keras")
    kprune.export(masked, tmp_path / "compact")
    pair = zoo.siblings("dict")
    kprune.export(pair, tmp_path / "pair")
    x, extra = zoo.images(3), np.ones((3, 4), "float32")
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "extra.npy", extra)
    done = run(LOAD, tmp_path)
    assert done.returncode == 0, done.stderr
    both = pair({"image": x, "extra": extra})
    expected = dict.fromkeys(("keras", "saved_model", "layer"), masked(x))
    with np.load(tmp_path / "got.npz") as got:
        assert set(got) == {*expected, "z", "a"}
        for key, value in {**expected, **both}.items():
            np.testing.assert_allclose(got[key], value, atol=1e-5)
