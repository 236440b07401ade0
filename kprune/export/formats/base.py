"""What an export format is: how a model gets into a file."""

from __future__ import annotations

import abc
import os
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path
from typing import Any
from typing import ClassVar

import keras
import numpy as np

from kprune.export.micro.arena import Arena
from kprune.export.operators import Operators
from kprune.export.signature import ModelSignature
from kprune.export.sizes import Size
from kprune.export.sizes import path_size
from kprune.outputs import Folder
from kprune.outputs import format_name
from kprune.registry import Registry


@dataclass(frozen=True)
class Job:
    """One model on its way into one file.

    Args:
        signature: The model with its named inputs and outputs.
        quantize: Kind of quantisation or None.
        calibration: One array per input, or None.
        options: Value of every option of the format.
        notes: What the user should know about the way here.
        name: Name that the file will have, without its suffix.
        content: Bytes of the file, if `prepare` has made them.
    """

    signature: ModelSignature
    quantize: str | None = None
    calibration: Sequence[np.ndarray] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    name: str = "model"
    content: bytes | None = None


class Format(abc.ABC):
    """A file format: how to write it, run it and what to expect of it."""

    name: ClassVar[str]
    suffix: ClassVar[str]
    quantize: ClassVar[tuple[str | None, ...]] = (None,)
    """Accepted values of `quantize`."""
    options: ClassVar[Mapping[str, Any]] = {}
    """Accepted options with their defaults."""
    float32: ClassVar[bool] = False
    """Whether mixed-precision models are written in float32."""
    folder: ClassVar[Folder | None] = None
    """What the artefact is, if it is a folder."""
    any_backend: ClassVar[bool] = False
    """Whether the format can be written without the TensorFlow backend."""

    def require(self) -> None:
        """Raise if what writes the format is not installed."""
        return None

    def check(self, job: Job) -> None:
        """Raise before any work is done if `job` cannot be written."""

    def prepare(self, job: Job) -> Job:
        """Return the job that is written for `job`, with another model perhaps.

        The file is compared with the model of `job`.
        """
        return job

    @abc.abstractmethod
    def write(self, job: Job, path: Path) -> None:
        """Write the model to `path`, which does not exist yet."""

    @abc.abstractmethod
    def run(
        self, job: Job, path: Path, samples: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """Load `path` on the runtime made for it and return its outputs."""

    @abc.abstractmethod
    def tolerance(self, job: Job) -> float:
        """Return the largest accepted relative difference."""

    def operators(self, path: Path) -> Operators | None:
        """List the operators in `path`, if the format has any."""
        return None

    def size(self, path: Path) -> Size:
        """Measure what takes room on the device."""
        return path_size(path)

    def arena(self, path: Path) -> Arena | None:
        """Estimate the memory to run in, if it is set aside beforehand."""
        return None

    def notes(self, job: Job) -> list[str]:
        """Return what the user should know about this artefact."""
        return []


def _refuse(function: Any) -> Any:
    raise TypeError(
        f"An export format is a subclass of Format. Received: {function!r}."
    )


registry = Registry("export format", Format, _refuse, "formats")
register = registry.register


def format_for(path: str | os.PathLike[str]) -> Format:
    """Choose the format by a path's suffix; no suffix means SavedModel.

    Args:
        path: Where the model will be written.

    Returns:
        The format.

    Raises:
        ValueError: If no format has this suffix.
    """
    found: Format = registry.get(format_name(path, registry.names))
    return found


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise if this process cannot write the format of a path.

    Args:
        path: Where a model will be written.

    Raises:
        ValueError: No format has this suffix.
        RuntimeError: Keras runs on another backend than the format needs.
        ImportError: A package is not installed.
    """
    chosen = format_for(path)
    check_backend(chosen)
    chosen.require()


def check_backend(chosen: Format) -> None:
    """Raise if the format's converter needs another Keras backend.

    Args:
        chosen: The format to write.

    Raises:
        RuntimeError: With the way out.
    """
    backend = keras.config.backend()
    if chosen.any_backend or backend == "tensorflow":
        return
    raise RuntimeError(
        f"Exporting to {chosen.name} needs the TensorFlow backend of Keras; this "
        f"process runs on {backend!r}. Save the compact model with "
        '`kprune.export(model, "model.keras")`, then run '
        f"`KERAS_BACKEND=tensorflow kprune export model.keras out{chosen.suffix}`."
    )
