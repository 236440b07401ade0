"""Reading of Keras' HDF5 files, except the weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from kprune.loading import keras2


@dataclasses.dataclass(frozen=True)
class Content:
    """The content of an HDF5 file, except the weights.

    Args:
        model: Configuration of the model, or None.
        training: Loss, optimizer and metrics, or None if it was not compiled.
        version: Version of Keras, not always known for Keras 1.
        backend: Backend of Keras.
        slots: Variables of the optimizer, in order.
    """

    model: dict[str, Any] | None
    training: dict[str, Any] | None
    version: str
    backend: str | None
    slots: list[np.ndarray]


def read(path: Path) -> Content:
    """Read an HDF5 file, except its weights."""
    import h5py

    with h5py.File(path, "r") as file:
        weights = file.get("model_weights")
        slots = file.get("optimizer_weights")
        return Content(
            _decoded(file.attrs.get("model_config")),
            _decoded(file.attrs.get("training_config")),
            _text(file.attrs.get("keras_version", "1")),
            _text(weights.attrs.get("backend")) if weights else None,
            _arrays(slots) if slots else [],
        )


def _arrays(group: Any) -> list[np.ndarray]:
    # Long lists are split into the attributes weight_names0, weight_names1 ...
    names = group.attrs.get("weight_names")
    if names is None:
        chunks: list[np.ndarray] = []
        while (key := f"weight_names{len(chunks)}") in group.attrs:
            chunks.append(group.attrs[key])
        names = np.concatenate(chunks) if chunks else []
    return [np.asarray(group[_text(name)]) for name in names]


def _decoded(value: Any) -> Any:
    return None if value is None else keras2.decode(value)


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value
