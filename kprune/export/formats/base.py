"""The base class of export formats, and how to find and register them."""

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
    """A model to write to a file, and how to write it.

    Args:
        signature: The model with its named inputs and outputs.
        quantize: Kind of quantisation or None.
        calibration: One array per input, or None.
        options: Value of every option of the format.
        notes: What the user should know about the preparation, in words.
        name: Name of the file, without its suffix.
        content: Bytes of the file, if `prepare` made them.
    """

    signature: ModelSignature
    quantize: str | None = None
    calibration: Sequence[np.ndarray] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    name: str = "model"
    content: bytes | None = None


class Format(abc.ABC):
    """An export format: writes files, runs them and sets the accepted difference."""

    name: ClassVar[str]
    suffix: ClassVar[str]
    quantize: ClassVar[tuple[str | None, ...]] = (None,)
    """Accepted values of `quantize`."""
    options: ClassVar[Mapping[str, Any]] = {}
    """Accepted options with their defaults."""
    float32: ClassVar[bool] = False
    """Whether mixed-precision models are written in float32."""
    folder: ClassVar[Folder | None] = None
    """Kind of folder, if the artefact is one."""
    any_backend: ClassVar[bool] = False
    """Whether the format can be written without the TensorFlow backend."""
    stateful: ClassVar[bool] = False
    """Whether the model may keep state between calls."""

    def require(self) -> None:
        """Raise if a package that writes the format is not installed."""
        return None

    def check(self, job: Job) -> None:
        """Raise if `job` cannot be written, before any work is done."""

    def prepare(self, job: Job) -> Job:
        """Return the job to write, which may have another model.

        The file is compared with the model of the given job.
        """
        return job

    @abc.abstractmethod
    def write(self, job: Job, path: Path) -> None:
        """Write the model to `path`, which does not exist yet."""

    @abc.abstractmethod
    def run(
        self, job: Job, path: Path, samples: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """Run `path` on the format's own runtime and return its outputs."""

    @abc.abstractmethod
    def tolerance(self, job: Job) -> float:
        """Return the largest accepted relative difference."""

    def operators(self, path: Path) -> Operators | None:
        """List the operators in `path`, if the format has any."""
        return None

    def size(self, path: Path) -> Size:
        """Measure the size on the device."""
        return path_size(path)

    def arena(self, path: Path) -> Arena | None:
        """Estimate the memory to run in, if it is allocated beforehand."""
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
        ValueError: No format has this suffix.
    """
    found: Format = registry.get(format_name(path, registry.names))
    return found


def check_writable(
    path: str | os.PathLike[str], model: keras.Model | None = None
) -> None:
    """Raise if this process cannot write the format of a path.

    Args:
        path: Where a model will be written.
        model: The model, if it is known yet.

    Raises:
        ValueError: No format has this suffix, or this one does not take layers of
            the model.
        RuntimeError: Keras runs on another backend than the format needs.
        ImportError: A package is not installed.
    """
    chosen = format_for(path)
    check_backend(chosen)
    chosen.require()
    if model is not None:
        check_state(chosen, model)


def check_state(chosen: Format, model: keras.Model) -> None:
    """Raise if a model keeps state between calls and the format cannot.

    Args:
        chosen: The format to write.
        model: The model to write.

    Raises:
        ValueError: It has a stateful layer.
    """
    if chosen.stateful:
        return
    for layer in model._flatten_layers(include_self=False):
        if getattr(layer, "stateful", False):
            raise ValueError(
                f"Layer {layer.name!r} of model {model.name!r} is stateful: its "
                "outputs depend on earlier calls, so no file of this format can be "
                "verified. Write a .keras file, or build the layer with "
                "stateful=False, and make the state an input and an output "
                "(`initial_state`, `return_state=True`)."
            )


def check_backend(chosen: Format) -> None:
    """Raise if the format's converter needs another Keras backend.

    Args:
        chosen: The format to write.

    Raises:
        RuntimeError: Keras runs on another backend than the format needs.
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
