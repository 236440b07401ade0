"""Keras files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from kprune.export.formats.base import Format
from kprune.export.formats.base import Job
from kprune.export.formats.base import register
from kprune.export.precision import reduced_precision
from kprune.export.signature import ModelSignature


@register("keras")
class KerasFile(Format):
    """`.keras`, loadable without kprune and with `safe_mode=True`."""

    name = "Keras"
    suffix = ".keras"
    any_backend = True
    stateful = True

    def write(self, job: Job, path: Path) -> None:
        job.signature.model.save(path)

    def run(
        self, job: Job, path: Path, samples: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        model = job.signature.model
        loaded = keras.models.load_model(
            path,
            custom_objects=custom_classes(model),
            compile=False,
            # Safe mode refuses the code of a Lambda. This process has just
            # written the file, so no foreign code is executed.
            safe_mode=not _has_lambda(model),
        )
        return ModelSignature(loaded).predict(samples)

    def tolerance(self, job: Job) -> float:
        # Operations and weights are the same, but GPUs may reorder sums.
        return 1e-2 if reduced_precision(job.signature.model) else 1e-5

    def notes(self, job: Job) -> list[str]:
        notes = []
        custom = sorted(custom_classes(job.signature.model))
        if custom:
            notes.append(
                f"loading it needs the custom classes {', '.join(custom)}"
            )
        if _has_lambda(job.signature.model):
            notes.append(
                "it has Lambda layers: loading it needs safe_mode=False"
            )
        return notes


def _layers(model: keras.Model) -> list[keras.layers.Layer]:
    return list(model._flatten_layers(include_self=True, recursive=True))


def _has_lambda(model: keras.Model) -> bool:
    return any(type(layer) is keras.layers.Lambda for layer in _layers(model))


def custom_classes(model: keras.Model) -> dict[str, type]:
    """Return the classes of layers that are not part of Keras, by name."""
    classes = {type(layer) for layer in _layers(model)}
    return {
        cls.__name__: cls
        for cls in classes
        if cls.__module__.split(".")[0] != "keras"
    }
