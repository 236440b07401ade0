"""One way to open a model file, whatever wrote it."""

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
    """Load a model file that Keras 3 or Keras 2 (tf.keras) wrote.

    The content counts, not the suffix. Files of Keras 2 come with arguments,
    layer names and losses that Keras 3 refuses; these are translated, and the
    model computes what it computed. Where loss, metrics or optimizer cannot be
    restored, the model is returned uncompiled, with a warning. The state of an
    optimizer of Keras 2 starts fresh.

    Args:
        path: A `.keras` file, an HDF5 file of a whole model (`.h5`), or the
            folder of an unzipped `.keras` file. Masked models load too.
        custom_objects: Classes and functions of your own by name.
        compile: Restore loss, metrics and optimizer.
        safe_mode: Refuse files that hold Python code, such as a `Lambda` with a
            lambda function. Turn it off only for a file you trust.

    Returns:
        The model.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no model, or cannot be loaded. The message
            says what it is and what to do.

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
    """A file to load, and how.

    Args:
        path: Its path.
        objects: Classes and functions by name.
        compile: See `load`.
        safe_mode: See `load`.
        notes: What the user should know about what was loaded.
        version: Version of Keras that wrote it, once it is known.
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
        """Return what to do about a file of a later version of Keras."""
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
                "holds weights and no model. Build the model in Python, then call "
                "model.load_weights(path)."
            )
        self.version = content.version
        if content.version.startswith("1") or content.backend in _OTHER_LAYOUTS:
            raise FileError(
                f"was written by Keras {content.version} on "
                f"{content.backend or 'Theano'}, which kept weights in another "
                "layout. Open it with Keras 2.2 on TensorFlow and save it again."
            )
        settings = content.training
        if _is_keras2(content.version):
            return self._load_keras2("model.h5", content.model, settings)
        with self._named("model.h5") as path:
            # Keras' own way to compile it fails on names such as "mse".
            model = keras.saving.load_model(
                path, self.objects, compile=False, safe_mode=self.safe_mode
            )
        if self._compile(model, settings, {}) and content.slots:
            if not training.restore_slots(model, content.slots):
                self.notes.append("the state of its optimizer does not fit.")
        return model

    def _load_keras2(
        self, name: str, config: Any, settings: Any
    ) -> keras.Model:
        """Return the model that Keras 2 described, compiled by its settings."""
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
            self.notes.append("the optimizer of Keras 2 starts afresh.")
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
                # A loss or metric must not stand in the way of the network.
                model = attempt(False)
                self._note_uncompiled(error)
                return model

    def _compile(
        self, model: keras.Model, settings: Any, new: Mapping[str, str]
    ) -> bool:
        """Compile a model if that is wanted, and return whether it is."""
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
        """Yield a path with the suffix by which Keras tells what a file is."""
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
    """Return in one line what is wrong with a file, and the way out."""
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
    """Return the innermost reason that Keras gives, in one line."""
    reason = str(error).rpartition(_CAUSE)[2] or type(error).__name__
    line = " ".join(reason.split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ..."
