"""SavedModel folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kprune.export.formats.base import Format
from kprune.export.formats.base import Job
from kprune.export.formats.base import register
from kprune.export.precision import reduced_precision
from kprune.export.quiet import quiet
from kprune.outputs import SAVED_MODEL


@register("saved_model")
class SavedModel(Format):
    """A TensorFlow SavedModel folder with the endpoint `serve`."""

    name = "SavedModel"
    suffix = ""
    folder = SAVED_MODEL

    def write(self, job: Job, path: Path) -> None:
        with quiet():
            job.signature.model.export(
                path, format="tf_saved_model", verbose=False
            )

    def run(
        self, job: Job, path: Path, samples: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        import tensorflow as tf

        with quiet():
            loaded = tf.saved_model.load(str(path))
        signature = job.signature

        def serve(part: Sequence[np.ndarray]) -> list[Any]:
            tensors = [
                tf.convert_to_tensor(array, spec.dtype)
                for array, spec in zip(part, signature.inputs, strict=True)
            ]
            return keras.tree.flatten(loaded.serve(signature.pack(tensors)))

        return signature.predict(samples, serve)

    def tolerance(self, job: Job) -> float:
        # A compiled graph may keep half-precision results in float32.
        return 5e-2 if reduced_precision(job.signature.model) else 1e-3
