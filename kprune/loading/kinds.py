"""Detection of the kind of a file or folder from its content."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any


class FileError(ValueError):
    """Reason why a file cannot be loaded, as the end of a sentence about it."""


HDF5 = "hdf5"
ARCHIVE = "archive"

_SAVE = 'Write one with model.save("model.keras").'
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_OTHERS = {
    ".onnx": "an ONNX file, which holds operators and no Keras layers",
    ".pb": "a frozen TensorFlow graph, which holds no Keras layers",
    ".pt": "a PyTorch file",
    ".pth": "a PyTorch file",
    ".pkl": "a pickle, which runs code when it is opened",
}


def kind_of(path: Path) -> str:
    """Return the kind of a Keras file.

    Args:
        path: A file, or the folder of an unzipped `.keras` file.

    Returns:
        `HDF5` or `ARCHIVE`.

    Raises:
        FileNotFoundError: If the path does not exist.
        ValueError: If it is neither. The message says what it is instead.
    """
    if path.is_dir():
        return _kind_of_folder(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    with path.open("rb") as file:
        head = file.read(8)
    if head == _HDF5_SIGNATURE:
        return HDF5
    if zipfile.is_zipfile(path):
        return _kind_of_zip(path)
    raise ValueError(f"{str(path)!r} is {_other(path, head)}")


def _kind_of_folder(path: Path) -> str:
    if (path / "config.json").is_file():
        return ARCHIVE
    if not (path / "saved_model.pb").is_file():
        raise ValueError(
            f"{str(path)!r} is a folder, not a model file. {_SAVE}"
        )
    if (path / "keras_metadata.pb").is_file():
        raise ValueError(
            f"{str(path)!r} is a SavedModel folder written by tf.keras 2, which "
            "Keras 3 cannot open as layers. Convert it once where the package "
            f"tf_keras is installed: tf_keras.models.load_model({str(path)!r})"
            '.save("model.h5"); kprune.load opens that file.'
        )
    raise ValueError(
        f"{str(path)!r} is a SavedModel folder, which holds a TensorFlow graph "
        "and no Keras layers to prune. Prune the model that it was exported "
        f"from, and export again. {_SAVE}"
    )


def _kind_of_zip(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
    if "config.json" in names:
        return ARCHIVE
    if any(name.endswith("/data.pkl") for name in names):
        what = "a PyTorch file"
    elif any(name.endswith(".npy") for name in names):
        what = "a NumPy archive, which holds arrays and no layers"
    else:
        what = "a zip file without a model"
    raise ValueError(
        f"{str(path)!r} is {what}, not a Keras model file. {_SAVE}"
    )


def _other(path: Path, head: bytes) -> str:
    if not head:
        return f"empty. {_SAVE}"
    if head[4:] == b"TFL3":
        return (
            "a TFLite file, which holds operators and no Keras layers to prune. "
            "Prune the Keras model that it was converted from, and export again."
        )
    if head.startswith(b"kpbin"):
        return "a file of binary kernels. kprune.binary.load opens it."
    what = _OTHERS.get(path.suffix)
    if what is None and head.lstrip()[:1] == b"{":
        what = "a JSON file, which holds no weights"
    if what is None:
        return (
            "not a Keras model file, or it is damaged: it begins neither as "
            f"`.keras` nor as HDF5 (`.h5`). {_SAVE}"
        )
    return f"{what}, not a Keras model file. {_SAVE}"


def read_archive(path: Path) -> tuple[dict[str, Any], str]:
    """Return the configuration in a `.keras` file, and the version of Keras.

    Args:
        path: The file, or the folder of an unzipped one.

    Raises:
        FileError: If the configuration cannot be read.
    """
    try:
        if path.is_dir():
            config = (path / "config.json").read_bytes()
            metadata = path / "metadata.json"
            about = metadata.read_bytes() if metadata.is_file() else b"{}"
        else:
            with zipfile.ZipFile(path) as archive:
                config = archive.read("config.json")
                known = "metadata.json" in archive.namelist()
                about = archive.read("metadata.json") if known else b"{}"
        version = json.loads(about).get("keras_version") or ""
        return json.loads(config), str(version)
    except (ValueError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        raise FileError(f"is damaged: {error}") from error
