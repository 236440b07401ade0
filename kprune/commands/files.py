"""Reading what the user names on the command line."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras


def load_model(path: Path) -> keras.Model:
    """Load a `.keras` (or legacy `.h5`) file without running code from it.

    The compile configuration is restored where that is possible.

    Args:
        path: File to read.

    Returns:
        The model.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file cannot be loaded safely, or not at all.

    Example:

    ```python
    model = load_model(Path("model.keras"))
    ```
    """
    import kprune.masking  # noqa: F401  registers FilterMask, for masked models

    if not path.is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    zipped = zipfile.is_zipfile(path)
    if path.suffix not in (".keras", ".h5", ".hdf5") or (
        path.suffix == ".keras" and not zipped
    ):
        raise ValueError(
            f"{str(path)!r} is not a Keras model file. Write one with "
            'model.save("model.keras").'
        )
    try:
        return _load(path, compile_model=True)
    except Exception:
        # A custom loss or metric must not stand in the way of the network.
        return _load(path, compile_model=False)


def _load(path: Path, compile_model: bool) -> keras.Model:
    import keras

    try:
        return keras.saving.load_model(
            path, compile=compile_model, safe_mode=True
        )
    except Exception as error:
        raise ValueError(_explain(path, str(error))) from error


def _explain(path: Path, message: str) -> str:
    if "safe_mode" in message or "unsafe_deserialization" in message:
        return (
            f"{str(path)!r} holds Python code (a Lambda layer), which kprune does "
            "not run. Replace the Lambda by a Keras operation or a registered "
            "layer; or, if you trust the file, load it in Python with "
            "keras.saving.load_model(path, safe_mode=False) and call kprune there."
        )
    missing = re.search(
        r"Could not locate (?:class|function) '([^']+)'", message
    )
    if missing:
        return (
            f"{str(path)!r} needs {missing[1]!r}, a custom layer or function that "
            "is not part of Keras. Import it in a Python script, load the model "
            "there and call kprune from the script."
        )
    return f"{str(path)!r} could not be loaded: {message}"
