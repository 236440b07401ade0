"""Find the data that a user names, without reading it.

Nothing heavy is imported here, so that a mistyped name fails at once.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import zipfile
from pathlib import Path

from kprune.arguments import absent
from kprune.arguments import did_you_mean
from kprune.arguments import suggestion

ARRAYS = "arrays"
TABLE = "table"
IMAGES = "images"
DATASET = "dataset"

TRAIN = "train"
VALIDATION = "validation"

PICTURES = (".bmp", ".gif", ".jpeg", ".jpg", ".png")
"""Suffixes of the files that Keras reads as images."""

_FILES = {".npz": ARRAYS, ".npy": ARRAYS, ".csv": TABLE}

_NAMES = {
    TRAIN: ("train", "training"),
    VALIDATION: ("validation", "val", "valid", "test"),
}
"""Names that the parts of a data set can have, preferred ones first."""

EXPECTED = (
    "a folder of class folders with images, a .npz, .npy or .csv file, or the name "
    "of a data set that TensorFlow Datasets has prepared"
)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where samples are, and in which form.

    Args:
        given: What the user wrote.
        kind: `"arrays"`, `"table"`, `"images"` or `"dataset"`.
        path: The file or folder. For a data set, the folder that holds its
            `dataset_info.json`.
        parts: The place's own names for `"train"` and `"validation"`, if it has
            such parts: folders, endings of array names (`""` for a bare `x`), or
            splits.
        split: The split of a data set that the user asked for.
        unlabelled: Whether there are certainly no targets.
    """

    given: str
    kind: str
    path: Path
    parts: dict[str, str] = dataclasses.field(default_factory=dict)
    split: str | None = None
    unlabelled: bool = False

    @property
    def has_validation(self) -> bool:
        """Whether the place holds samples to train on and others for validation."""
        return self.split is None and {TRAIN, VALIDATION} <= self.parts.keys()

    def own_name(self, part: str) -> str | None:
        """Return the place's own name for a part, or for the part it has."""
        return self.parts.get(part, next(iter(self.parts.values()), None))

    def folder(self, part: str) -> Path:
        """Return the folder of images that a part is read from."""
        name = self.own_name(part)
        return self.path if name is None else self.path / name


def find_place(
    given: str | os.PathLike[str],
    data_dir: str | os.PathLike[str] | None = None,
) -> Place:
    """Find the data that a user names.

    Args:
        given: A folder of images, a `.npz`, `.npy` or `.csv` file, or a data set
            of TensorFlow Datasets: `"cifar10"` or `"cifar10:test[:500]"`.
        data_dir: Folder of TensorFlow Datasets. Defaults to its own choice.

    Returns:
        The place. Only names have been read from it so far.

    Raises:
        FileNotFoundError: There is no such file, folder or data set; close names
            are suggested.
        ValueError: The file is of an unsupported kind, the folder holds no
            images, or the data set has no such split.

    Example:

    >>> find_place("photos").kind
    'images'
    """
    path = Path(given)
    text = os.fspath(given)
    if path.is_dir():
        return _images(path, text)
    if path.is_file():
        kind = _FILES.get(path.suffix.lower())
        if kind is None:
            raise ValueError(
                f"Cannot read data from {text!r}: give {EXPECTED}."
            )
        if kind != ARRAYS:
            return Place(text, kind, path)
        names = _array_names(path)
        endings = [n.removeprefix("x_") for n in names if n.startswith("x_")]
        parts = _parts(endings)
        if "x" in names:
            parts.setdefault(TRAIN, "")
        return Place(text, kind, path, parts, unlabelled=len(names) == 1)
    root = datasets_folder(data_dir)
    name, _, split = text.partition(":")
    if Path(name).suffix or not (root / name.split("/")[0]).is_dir():
        if Path(name).suffix or len(path.parts) > 1:
            raise absent(path)
        raise _no_dataset(path, name, root)
    return _dataset(text, root / name, split or None)


def datasets_folder(data_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder in which TensorFlow Datasets keeps prepared data sets."""
    default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(data_dir or default).expanduser()


def _images(folder: Path, given: str) -> Place:
    parts = _parts(subfolders(folder))
    # A class can be called `train`, too.
    if TRAIN not in parts or not (
        VALIDATION in parts or class_folders(folder / parts[TRAIN])
    ):
        parts = {}
    place = Place(given, IMAGES, folder, parts)
    for part in place.parts or {TRAIN: ""}:
        if not _has_pictures(place.folder(part)):
            raise ValueError(
                f"There are no images in {str(place.folder(part))!r}. Expected a "
                "folder for each class with .jpg, .png, .bmp or .gif files in it, "
                "or such files alone, without labels."
            )
    bare = not class_folders(place.folder(TRAIN))
    return dataclasses.replace(place, unlabelled=bare)


def class_folders(folder: Path) -> list[str]:
    """Return the class folders in a folder of images, in Keras's order.

    A single folder tells no classes apart, so it is none.
    """
    found = subfolders(folder)
    return found if len(found) > 1 else []


def subfolders(folder: Path) -> list[str]:
    """Return the folders in a folder in alphabetical order, without hidden ones."""
    return sorted(
        entry.name
        for entry in folder.iterdir()
        if entry.is_dir() and not entry.name.startswith(".")
    )


def _has_pictures(folder: Path) -> bool:
    # A class folder may be a link. Keras does not follow deeper links, nor does this.
    roots = [folder, *(folder / name for name in subfolders(folder))]
    return any(
        name.lower().endswith(PICTURES)
        for root in roots
        for _, _, names in os.walk(root)
        for name in names
    )


def _array_names(path: Path) -> list[str]:
    """Return the names of the arrays in a file; empty if it is damaged."""
    if path.suffix.lower() == ".npy":
        return ["x"]
    try:
        with zipfile.ZipFile(path) as archive:
            return [n.removesuffix(".npy") for n in archive.namelist()]
    except (OSError, zipfile.BadZipFile):
        return []


def _parts(names: list[str]) -> dict[str, str]:
    found = {}
    for part, wanted in _NAMES.items():
        own = [name for name in wanted if name in names]
        if own:
            found[part] = own[0]
    return found


def _no_dataset(path: Path, name: str, root: Path) -> Exception:
    known = []
    if root.is_dir():
        known = sorted(e.name for e in root.iterdir() if e.is_dir())
    here = [entry.name for entry in Path().iterdir()]
    close = suggestion(name, [*here, *known])
    return FileNotFoundError(
        f"There is no file or folder {str(path)!r}, and no data set of that name in "
        f"{str(root)!r}. {close}Give {EXPECTED} (with `tfds build {name}`, in "
        "--data-dir)."
    )


def _dataset(given: str, folder: Path, split: str | None) -> Place:
    prepared = sorted(folder.rglob("dataset_info.json"), key=_version)
    if not prepared:
        raise FileNotFoundError(
            f"{str(folder)!r} holds no prepared data set. Prepare it: tfds build "
            f"{folder.name} --data_dir {folder.parent}."
        )
    info = json.loads(prepared[-1].read_text("utf-8"))
    splits = [one["name"] for one in info.get("splits", [])]
    asked = None if split is None else re.split(r"[\[+]", split)[0]
    if asked is not None and asked not in (*splits, "all"):
        raise ValueError(
            f"Data set {folder.name!r} has no split {asked!r}. "
            f"{did_you_mean(asked, splits)}"
        )
    return Place(given, DATASET, prepared[-1].parent, _parts(splits), split)


def _version(path: Path) -> list[int]:
    numbers = re.findall(r"\d+", path.parent.name)
    return [int(number) for number in numbers]
