"""What was pruned on another backend is exported by TensorFlow."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pages
import pytest

ROOT = Path(__file__).parents[2]
RUN = "from kprune.cli import main; main()"


def python_with_jax():
    """This interpreter, or that of `make test-jax`."""
    for python in (sys.executable, str(ROOT / ".venv-jax" / "bin" / "python")):
        if not os.path.exists(python):
            continue
        tried = subprocess.run(
            [python, "-c", "import jax"], capture_output=True
        )
        if tried.returncode == 0:
            return python
    pytest.skip("needs JAX: pip install jax, or make test-jax")


@pytest.mark.slow
@pytest.mark.tensorflow
def test_the_documented_way_from_jax_to_tflite(tmp_path):
    page = pages.DOCS / "backends.md"
    (train,) = pages.blocks(page, "python")
    subprocess.run(
        [python_with_jax(), "-c", train.code], cwd=tmp_path, check=True
    )
    (command,) = re.findall(
        r"^KERAS_BACKEND=tensorflow kprune (.*)$", page.read_text(), re.M
    )
    subprocess.run(
        [sys.executable, "-c", RUN, *command.split()],
        cwd=tmp_path,
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
        check=True,
    )
    from ai_edge_litert.interpreter import Interpreter

    compact = keras.saving.load_model(tmp_path / "compact.keras")
    assert compact.get_layer("conv2d").filters == 8
    x = np.random.default_rng(0).random((1, 8, 8, 1), "float32")
    interpreter = Interpreter(model_path=str(tmp_path / "model.tflite"))
    run = interpreter.get_signature_runner()
    (name,) = run.get_input_details()
    (found,) = run(**{name: x}).values()
    np.testing.assert_allclose(found, compact.predict_on_batch(x), atol=1e-5)
