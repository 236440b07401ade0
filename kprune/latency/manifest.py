"""The manifest that describes the files to time on another device."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kprune.arguments import choice
from kprune.latency.layout import Layout
from kprune.latency.schema import FORMAT
from kprune.latency.schema import damaged
from kprune.latency.schema import read_json
from kprune.latency.table import DTYPES
from kprune.latency.table import Steps
from kprune.outputs import atomic_file

MANIFEST = "manifest.json"

Kept = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The files that were written for one model.

    Args:
        model: The model's fingerprint.
        dtype: `"float32"` or `"int8"`.
        layout: The operators that the model runs.
        steps: Operator kind -> numbers of channels read and written at once.
        overhead: Name of the file with a minimal model, or None.
        whole: Name of the file of a whole model -> channels that its groups keep.
        operators: Name of a file -> key of its operator, width read, width written.
    """

    model: str
    dtype: str
    layout: Layout
    steps: Mapping[str, Steps]
    overhead: str | None
    whole: Mapping[str, Kept]
    operators: Mapping[str, tuple[str, int, int]]

    def files(self) -> Iterator[str]:
        """Yield the names of all files."""
        if self.overhead is not None:
            yield self.overhead
        yield from self.whole
        yield from self.operators

    def save(self, folder: Path) -> None:
        """Write the manifest into a folder, as JSON."""
        data = {
            "kprune_latency_files": FORMAT,
            "model": self.model,
            "dtype": self.dtype,
            "layout": self.layout.to_json(),
            "steps": dict(self.steps),
            "overhead": self.overhead,
            "whole": dict(self.whole),
            "operators": dict(self.operators),
        }
        with atomic_file(folder / MANIFEST) as temporary:
            temporary.write_text(json.dumps(data, indent=1) + "\n", "utf-8")


def load_manifest(folder: str | os.PathLike[str]) -> Manifest:
    """Read the manifest of a folder. No code in it is run.

    Args:
        folder: A folder from `kprune.latency.write_files`.

    Raises:
        FileNotFoundError: The folder has no manifest.
        ValueError: The file is damaged, or of another version.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no file {os.fspath(path)!r}. Write the files of a model "
            f"with kprune.latency.write_files(model, {os.fspath(folder)!r})."
        )
    what = "manifest"
    way_out = (
        "Write the files again with kprune.latency.write_files, into another "
        "folder."
    )
    data = read_json(path, "MANIFEST", what, way_out)
    try:
        return _manifest(data)
    except ValueError as error:
        raise damaged(path, what, way_out, error) from error


def _manifest(data: Mapping[str, Any]) -> Manifest:
    choice(data["dtype"], "A manifest", "dtype", DTYPES)
    manifest = Manifest(
        data["model"],
        data["dtype"],
        Layout.from_json(data["layout"]),
        {k: (int(r), int(w)) for k, (r, w) in data["steps"].items()},
        data["overhead"],
        {name: tuple(map(int, kept)) for name, kept in data["whole"].items()},
        {
            name: (str(key), int(read), int(write))
            for name, (key, read, write) in data["operators"].items()
        },
    )
    for name in manifest.files():
        if Path(name).name != name:
            raise ValueError(f"{name!r} is not the name of a file")
    return manifest
