"""Files with binary kernels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kprune import binary
from kprune.export.formats.base import Format
from kprune.export.formats.base import Job
from kprune.export.formats.base import register
from kprune.export.formats.keras import custom_classes
from kprune.export.signature import ModelSignature


@register("binary")
class BinaryFile(Format):
    """`.binary`: binary kernels as bits and scales, all weights exact.

    Load it with `kprune.binary.load`.
    """

    name = "binary kernels"
    suffix = ".binary"
    any_backend = True

    def write(self, job: Job, path: Path) -> None:
        binary.save(job.signature.model, path)

    def run(
        self, job: Job, path: Path, samples: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        loaded = binary.load(path, custom_classes(job.signature.model))
        return ModelSignature(loaded).predict(samples)

    def tolerance(self, job: Job) -> float:
        # Operations and weights are the same, but GPUs may reorder sums.
        return 1e-5

    def notes(self, job: Job) -> list[str]:
        return [str(binary.figures(job.signature.model))]
