"""Write a model's operators as files, to time them on another device."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path

import keras

from kprune.graph import trace
from kprune.latency.conversion import Conversion
from kprune.latency.layout import fingerprint
from kprune.latency.manifest import MANIFEST
from kprune.latency.manifest import Manifest
from kprune.latency.manifest import load_manifest
from kprune.latency.table import Steps
from kprune.latency.table import check_setting
from kprune.latency.tasks import Task
from kprune.latency.tasks import tasks
from kprune.latency.tasks import widest
from kprune.masking import is_masked
from kprune.masking import require_prunable
from kprune.masking import wrap
from kprune.outputs import atomic_file

FILES = "files"
"""Folder of the `.tflite` files, next to the manifest."""
SCRIPT = "measure.sh"

STEPS: dict[str, Steps] = {"float32": (1, 8), "int8": (8, 8)}
"""Numbers of channels that a kernel is assumed to read and write at once.

Steps are found by timing, which is not possible here. Since four steps in a row are
distinguished, kernels with steps of 16 or 32 are covered too.
"""


@dataclasses.dataclass(frozen=True)
class WrittenFiles:
    """The result of `write_files`.

    Args:
        folder: The folder.
        count: Number of `.tflite` files.
        size: Total size in bytes.
    """

    folder: Path
    count: int
    size: int

    def __str__(self) -> str:
        return (
            f"{self.count} files, {self.size / 1e6:.1f} MB, in "
            f"{os.fspath(self.folder)}"
        )


def write_files(
    model: keras.Model,
    folder: str | os.PathLike[str],
    dtype: str = "float32",
) -> WrittenFiles:
    """Write the files to time on another device for its latency table.

    Each `.tflite` file holds one operator at one width, the whole model at some
    widths, or a minimal model. The script `measure.sh` next to them runs LiteRT's
    `benchmark_model` on each file, on an Android phone or on the machine that it
    is started on. It can be stopped and started again. `read_logs` then makes the
    table.

    Args:
        model: A functional `keras.Model`, masked or not.
        folder: Folder to write to. It is created if it does not exist; otherwise
            it must be empty, or hold files of the same model.
        dtype: `"float32"`, or `"int8"` for a fully quantised model.

    Returns:
        `WrittenFiles`. Print it to see how many there are.

    Raises:
        ValueError: The folder holds something else, or the model cannot be pruned
            or converted.
        RuntimeError: Keras runs on another backend than TensorFlow.

    Example:

    ```python
    print(kprune.latency.write_files(model, "for_the_phone", dtype="int8"))
    # BENCHMARK=benchmark_model sh for_the_phone/measure.sh
    table = kprune.latency.read_logs("for_the_phone", "Pixel 8")
    ```
    """
    check_setting("litert", dtype, threads=1)
    folder = Path(folder)
    masked = model if is_masked(model) else wrap(model)
    graph = trace(masked)
    require_prunable(graph)
    name = fingerprint(graph, dtype)
    _check_folder(folder, name)
    conversion = Conversion(masked, dtype)
    steps = {kind: STEPS[dtype] for kind in widest(conversion)}
    todo = {_file_name(task): task for task in tasks(conversion, steps)}
    whole = {
        f"model-{number}.tflite": content
        for number, content in enumerate(conversion.contents)
    }
    nothing = conversion.nothing()
    manifest = Manifest(
        name,
        dtype,
        conversion.layout,
        steps,
        "overhead.tflite" if nothing else None,
        {
            file: tuple(int(n) for n in kept)
            for file, kept in zip(whole, conversion.kept, strict=True)
        },
        {file: (t.key, t.read, t.write) for file, t in todo.items()},
    )
    (folder / FILES).mkdir(parents=True, exist_ok=True)
    manifest.save(folder)
    script = Path(__file__).with_name(SCRIPT).read_text("utf-8")
    with atomic_file(folder / SCRIPT) as temporary:
        temporary.write_text(script, "utf-8", newline="\n")
    size = 0
    for file in manifest.files():
        if file in whole:
            content = whole[file]
        else:
            content = todo[file].make() if file in todo else nothing or b""
        with atomic_file(folder / FILES / file) as temporary:
            size += temporary.write_bytes(content)
    return WrittenFiles(folder, len(list(manifest.files())), size)


def _check_folder(folder: Path, name: str) -> None:
    """Raise if a folder holds anything but files of the same model."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if (folder / MANIFEST).is_file() and load_manifest(folder).model == name:
        return
    raise ValueError(
        f"{os.fspath(folder)!r} exists, and does not hold files of this model and "
        "number format. Choose a folder that is empty or does not exist."
    )


def _file_name(task: Task) -> str:
    kind = task.key.partition("(")[0].lower()
    digest = hashlib.sha256(task.key.encode()).hexdigest()[:10]
    return f"{kind}-{digest}-{task.read}-{task.write}.tflite"
