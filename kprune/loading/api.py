"""load(): open a model file of Keras 3 or Keras 2."""

from __future__ import annotations

import dataclasses
import os
import re
import tempfile
import warnings
from collections.abc import Iterator
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras

from kprune.loading import hdf5
from kprune.loading import keras2
from kprune.loading import kinds
from kprune.loading import names
from kprune.loading import training
from kprune.loading.kinds import FileError

_CODE = ("safe_mode", "unsafe_deserialization")
_MISSING = re.compile(r"(?:Could not locate|Unknown) \w+:? '([^']+)'")
_CAUSE = "Exception encountered: "
_LONGEST = 400
_OTHER_LAYOUTS = ("theano", "cntk")


def load(
    path: str | os.PathLike[str],
    custom_objects: Mapping[str, Any] | None = None,
    compile: bool = True,
    *,
    safe_mode: bool = True,
) -> keras.Model:
    """Load a model file written by Keras 3 or Keras 2 (tf.keras).

    The format is detected from the content, not from the suffix. Arguments, layer names
    and losses in Keras 2 files that Keras 3 rejects are translated, without changing
    the outputs of the model. If loss, metrics or optimizer cannot be restored, the
    model is returned uncompiled, with a warning. The state of a Keras 2 optimizer is
    not restored.

    Args:
        path: A `.keras` file, an HDF5 file of a whole model (`.h5`), or the folder of
            an unzipped `.keras` file. Masked models can be loaded too.
        custom_objects: Custom classes and functions by name.
        compile: Whether to restore loss, metrics and optimizer.
        safe_mode: Whether to reject files with Python code, such as a `Lambda` with a
            lambda function. Turn it off only for files you trust.

    Returns:
        The model.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not a model, or cannot be loaded. The message says
            what it is and what to do.

    Example:

    ```python
    model = kprune.load("mobilenet_v1.h5")
    ```
    """
    file = _File(Path(path), dict(custom_objects or {}), compile, safe_mode)
    model = file.load()
    for note in file.notes:
        warnings.warn(f"{str(path)!r}: {note}", stacklevel=2)
    return model


@dataclasses.dataclass
class _File:
    """A file to load, with the options for loading it.

    Args:
        path: Its path.
        objects: Classes and functions by name.
        compile: See `load`.
        safe_mode: See `load`.
        notes: Messages for the user about the loaded model.
        version: Version of Keras that wrote it, once known.
    """

    path: Path
    objects: dict[str, Any]
    compile: bool
    safe_mode: bool
    notes: list[str] = dataclasses.field(default_factory=list)
    version: str = ""

    def load(self) -> keras.Model:
        kind = kinds.kind_of(self.path)
        try:
            if kind == kinds.HDF5:
                return self._load_hdf5()
            return self._load_archive()
        except Exception as error:
            reason = _explain(error) + self._newer()
            raise ValueError(f"{str(self.path)!r} {reason}") from error

    def _newer(self) -> str:
        """Return advice for a file of a newer version of Keras, or an empty string."""
        if _numbers(self.version) <= _numbers(keras.__version__):
            return ""
        return (
            f" It was written by Keras {self.version}, and this is Keras "
            f"{keras.__version__}: update Keras."
        )

    def _load_archive(self) -> keras.Model:
        config, self.version = kinds.read_archive(self.path)
        if not _is_keras2(self.version):
            return self._load_keras3()
        return self._load_keras2(
            "model.keras", config, config.get("compile_config")
        )

    def _load_hdf5(self) -> keras.Model:
        content = hdf5.read(self.path)
        if content.model is None:
            raise FileError(
                "has weights but no model. Build the model in Python, then call "
                "model.load_weights(path)."
            )
        self.version = content.version
        if content.version.startswith("1") or content.backend in _OTHER_LAYOUTS:
            raise FileError(
                f"was written by Keras {content.version} on "
                f"{content.backend or 'Theano'}, which stored weights in another "
                "layout. Open it with Keras 2.2 on TensorFlow and save it again."
            )
        settings = content.training
        if _is_keras2(content.version):
            return self._load_keras2("model.h5", content.model, settings)
        with self._named("model.h5") as path:
            # Compilation by Keras itself fails for names such as "mse".
            model = keras.saving.load_model(
                path, self.objects, compile=False, safe_mode=self.safe_mode
            )
        if self._compile(model, settings, {}) and content.slots:
            if not training.restore_slots(model, content.slots):
                self.notes.append(
                    "the state of its optimizer does not fit and is not restored."
                )
        return model

    def _load_keras2(
        self, name: str, config: Any, settings: Any
    ) -> keras.Model:
        """Return the model of a Keras 2 configuration, compiled with its settings."""
        translated = keras2.Translator(self.objects, self.safe_mode).model(
            config
        )
        model = keras.saving.deserialize_keras_object(
            translated, self.objects, safe_mode=self.safe_mode
        )
        with self._named(name) as path:
            model.load_weights(path)
        inner = config["config"]
        new = names.renamed(inner) if "layers" in inner else {}
        if self._compile(model, settings, new):
            self.notes.append(
                "the state of the Keras 2 optimizer is not restored."
            )
        return model

    def _load_keras3(self) -> keras.Model:
        with self._named("model.keras") as path:

            def attempt(compile: bool) -> keras.Model:
                return keras.saving.load_model(
                    path, self.objects, compile, self.safe_mode
                )

            if not self.compile:
                return attempt(False)
            try:
                return attempt(True)
            except Exception as error:
                # A problem with a loss or metric must not prevent loading the model.
                model = attempt(False)
                self._note_uncompiled(error)
                return model

    def _compile(
        self, model: keras.Model, settings: Any, new: Mapping[str, str]
    ) -> bool:
        """Compile a model if requested, and return whether it is compiled."""
        if not (self.compile and settings):
            return False
        try:
            with keras.saving.custom_object_scope(self.objects):
                training.compile_model(model, settings, new)
        except Exception as error:
            self._note_uncompiled(error)
            return False
        return True

    @contextmanager
    def _named(self, name: str) -> Iterator[Path]:
        """Yield a path with the suffix from which Keras recognises the format."""
        if self.path.is_dir():
            yield self.path
            return
        with tempfile.TemporaryDirectory() as folder:
            link = Path(folder) / name
            link.symlink_to(self.path.resolve())
            yield link

    def _note_uncompiled(self, error: Exception) -> None:
        self.notes.append(
            "its loss, metrics and optimizer could not be restored "
            f"({_cause(error)}). Compile the model yourself."
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", version)[:2])


def _is_keras2(version: str) -> bool:
    return version.startswith(("1", "2"))


def _explain(error: Exception) -> str:
    """Return what is wrong with a file and what to do, in one line."""
    message = str(error)
    if isinstance(error, FileError):
        return message
    if any(word in message for word in _CODE):
        return keras2.CODE
    missing = _MISSING.search(message)
    if missing:
        return (
            f"needs {missing[1]!r}, a class or function that Keras does not have. "
            "Import it in a Python script and call kprune.load(path, "
            f"custom_objects={{{missing[1]!r}: ...}}) there."
        )
    if isinstance(error, OSError):
        return f"is damaged or cannot be read: {_cause(error)}"
    return f"could not be loaded: {_cause(error)}"


def _cause(error: Exception) -> str:
    """Return the innermost error message of Keras, in one line."""
    reason = str(error).rpartition(_CAUSE)[2] or type(error).__name__
    line = " ".join(reason.split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ..."
