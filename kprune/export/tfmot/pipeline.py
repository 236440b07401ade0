"""Re-create, cluster and train the model of a job before it is written."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

from kprune.export.formats import Job
from kprune.export.samples import random_samples
from kprune.export.tfmot.annotate import annotated
from kprune.export.tfmot.annotate import quantization_aware
from kprune.export.tfmot.clusters import clusterable
from kprune.export.tfmot.clusters import clustered
from kprune.export.tfmot.packages import packages
from kprune.export.tfmot.recreate import RecreatedSignature
from kprune.export.tfmot.recreate import Recreation
from kprune.export.tfmot.recreate import recreate
from kprune.export.tfmot.steps import RecreationError
from kprune.export.tfmot.training import train
from kprune.session.muting import muted

logger = logging.getLogger("kprune")

# Number of samples to compare the re-created model on.
_CHECKED = 32

# These only move values, so int8 does not change them.
_MOVEMENT = frozenset(
    {
        "Copy", "Cropping1D", "Cropping3D", "ExpandDims", "Flip", "GetItem",
        "Identity", "InputLayer", "Moveaxis", "Pad", "Repeat", "RepeatVector",
        "Reshape", "Slice", "Split", "Squeeze", "Stack", "Swapaxes", "Tile",
        "Transpose", "ZeroPadding1D", "ZeroPadding3D",
    }
)  # fmt: skip


def compress(job: Job) -> Job:
    """Cluster and train the model of a job.

    Args:
        job: Job with `quantize="qat"`, the option `clusters`, or both.

    Returns:
        The job to convert, with the trained model instead of the Keras model, and
        notes on what was done. If no layer can be trained for int8, it has
        `quantize="int8"` instead of `"qat"`.

    Raises:
        ValueError: The model cannot be clustered, or the data does not fit.
        ImportError: TF-MOT is not installed.
    """
    packages()
    # TensorFlow warns of retracing, but each export needs functions of its own.
    with muted(logging.getLogger("tensorflow"), logging.ERROR):
        return _compress(job)


def _compress(job: Job) -> Job:
    samples = job.calibration
    if samples is None:
        samples = random_samples(job.signature, _CHECKED)
    try:
        recreation = recreate(
            job.signature, [array[:_CHECKED] for array in samples]
        )
    except RecreationError as error:
        if job.options["clusters"] is not None:
            raise ValueError(
                f"`clusters` needs model {job.signature.model.name!r} in tf_keras, "
                f"but {error}. Leave `clusters` out."
            ) from error
        return _post_training(job, str(error))
    if job.quantize == "qat" and not _trainable(recreation.model):
        name = job.signature.model.name
        job = _post_training(job, f"{name!r} has no layer that TF-MOT covers")
        if job.options["clusters"] is None:
            return job
    model: Any = recreation.model
    notes: list[str] = []
    if job.options["clusters"] is not None:
        model, note = _cluster(model, job)
        notes.append(note)
    if job.quantize == "qat":
        covered = annotated(model)
        model = quantization_aware(
            model, covered, samples, job.options["clusters"] is not None
        )
        train(model, job.signature, job.options)
        notes += _coverage(job, recreation, covered)
    return dataclasses.replace(
        job,
        signature=RecreatedSignature(job.signature, model),
        notes=(*job.notes, *notes),
    )


def _trainable(model: Any) -> bool:
    """Return whether any layer with weights can imitate int8 arithmetic."""
    covered = annotated(model)
    return any(layer.weights for layer in model.layers if layer.name in covered)


def _post_training(job: Job, why: str) -> Job:
    """Return the job for int8 after training, if the model cannot be trained."""
    logger.warning(
        "export: no quantisation-aware training, int8 after training instead: %s",
        why,
    )
    note = f"no quantisation-aware training, int8 after training: {why}"
    return dataclasses.replace(job, quantize="int8", notes=(*job.notes, note))


def _cluster(model: Any, job: Job) -> tuple[Any, str]:
    clusters = job.options["clusters"]
    chosen = clusterable(model, clusters)
    if not chosen:
        raise ValueError(
            f"Model {job.signature.model.name!r} has no convolution or Dense "
            f"layer with more than {clusters} different weights to cluster. "
            "Leave `clusters` out, or pass fewer."
        )
    model = clustered(model, chosen, job.signature, job.options)
    trained = "" if job.options["data"] is None else f", {_epochs(job)}"
    return model, (
        f"kernels clustered to {clusters} weights: {len(chosen)}{trained}"
    )


def _epochs(job: Job) -> str:
    epochs = job.options["epochs"]
    return f"trained for {epochs} epoch{'' if epochs == 1 else 's'}"


def _coverage(job: Job, recreation: Recreation, covered: set[str]) -> list[str]:
    """Describe which layers imitated int8 in training; log the others."""
    outside = list(
        dict.fromkeys(
            f"{origin.name} ({origin.kind})"
            for name, origin in recreation.origins.items()
            if name not in covered and origin.kind not in _MOVEMENT
        )
    )
    notes = [
        f"quantisation-aware training of {len(covered)} layers, {_epochs(job)}"
    ]
    if outside:
        listed = ", ".join(outside)
        logger.warning(
            "export: TF-MOT does not cover these layers; they are quantised after "
            "training: %s",
            listed,
        )
        notes.append(f"quantised after training: {listed}")
    return notes
