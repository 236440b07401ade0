"""Artefacts in processes that know nothing of kprune."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from export import zoo

import kprune

LOAD = """
import sys
sys.modules["kprune"] = None  # `import kprune` raises ImportError
import keras, numpy as np
model = keras.models.load_model("compact.keras", safe_mode=True)
np.save("got.npy", model(np.load("x.npy")))
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


def test_compact_keras_file_needs_no_kprune(tmp_path):
    masked = kprune.wrap(zoo.conv_net())
    name, mask = next(iter(kprune.masks(masked).items()))
    kprune.set_masks(masked, {name: np.arange(len(mask)) > 1})
    kprune.export(masked, tmp_path / "compact.keras")
    x = zoo.images(3)
    np.save(tmp_path / "x.npy", x)
    done = run(LOAD, tmp_path)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(
        np.load(tmp_path / "got.npy"), masked(x), atol=1e-5
    )


SERVE = """
import sys
sys.modules["kprune"] = None
import numpy as np, tensorflow as tf
loaded = tf.saved_model.load("folder")
np.save("got.npy", loaded.serve(np.load("x.npy")))
"""


@pytest.mark.slow
def test_saved_model_needs_no_kprune(tmp_path):
    model, x = zoo.conv_net(), zoo.images(3)
    kprune.export(model, tmp_path / "folder")
    np.save(tmp_path / "x.npy", x)
    done = run(SERVE, tmp_path)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(
        np.load(tmp_path / "got.npy"), model(x), atol=1e-5
    )
