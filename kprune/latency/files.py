"""write_files(): a model's operators as files, to be timed on another device."""

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
"""Folder of the `.tflite` files, beside the manifest."""
SCRIPT = "measure.sh"

STEPS: dict[str, Steps] = {"float32": (1, 8), "int8": (8, 8)}
"""Channels that a kernel is taken to read and write at once.

Steps are found by timing, which cannot be done here. Four steps in a row are told
apart, so that a kernel with steps of 16 or 32 is described as well.
"""


@dataclasses.dataclass(frozen=True)
class WrittenFiles:
    """The result of `write_files`.

    Args:
        folder: Where it lies.
        count: Number of `.tflite` files.
        size: Bytes of all of them.
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
    """Write all files whose times make a latency table of another device.

    Each `.tflite` file holds one operator at one width, the whole model at some
    widths, or next to nothing. The script `measure.sh` beside them runs LiteRT's
    `benchmark_model` on every one, on an Android phone or on the machine that
    it is started on, and can be stopped and started again. `read_logs` then
    makes the table.

    Args:
        model: A functional `keras.Model`, masked or not.
        folder: Where to write; made if it does not exist. If it is there, it
            must be empty, or hold files of the same model.
        dtype: `"float32"`, or `"int8"` for a fully quantised model.

    Returns:
        `WrittenFiles`; `print` it to see how many there are.

    Raises:
        ValueError: A folder with something else in it, or a model that cannot
            be pruned or converted.
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
    """Raise if files of two models would lie in one folder."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if (folder / MANIFEST).is_file() and load_manifest(folder).model == name:
        return
    raise ValueError(
        f"{os.fspath(folder)!r} exists, and is no folder with files of this model "
        "and number format. Choose a folder that is empty or does not exist."
    )


def _file_name(task: Task) -> str:
    kind = task.key.partition("(")[0].lower()
    digest = hashlib.sha256(task.key.encode()).hexdigest()[:10]
    return f"{kind}-{digest}-{task.read}-{task.write}.tflite"
