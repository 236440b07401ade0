"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path


def _sibling(path: Path) -> Path:
    # The suffix stays last: Keras and the runtimes read the format from it.
    return path.with_name(f".{path.stem}.{uuid.uuid4().hex[:12]}{path.suffix}")


def check_parent(path: Path) -> None:
    """Raise if `path` cannot be created because its folder is missing.

    Args:
        path: File or folder that will be written.

    Raises:
        FileNotFoundError: If the parent folder does not exist.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"Cannot write {str(path)!r}: the folder {str(path.parent)!r} does "
            "not exist. Create it first."
        )


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary name that becomes `path` if the block succeeds.

    The temporary file lies in the same folder, so that the last step is one
    rename. If the block raises, `path` keeps its old content.

    Args:
        path: File to write.

    Yields:
        The path to write to; it has the same suffix.
    """
    path = Path(path)
    check_parent(path)
    if path.is_dir():
        raise IsADirectoryError(
            f"Cannot write the file {str(path)!r}: it is a folder."
        )
    temporary = _sibling(path)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str], marker: str) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path` if the block succeeds.

    Args:
        path: Folder to write. An existing one is replaced only if it is empty
            or holds `marker`, so that a mistyped path costs nobody a folder.
        marker: Name of a file that every folder of this format has.

    Yields:
        The folder to write to; it does not exist yet.

    Raises:
        FileExistsError: If `path` is a file, or a folder of another kind.
    """
    path = Path(path)
    check_parent(path)
    if path.exists():
        _check_replaceable(path, marker)
    temporary, old = _sibling(path), _sibling(path)
    try:
        yield temporary
        if path.exists():
            os.replace(path, old)
        try:
            os.replace(temporary, path)
        except OSError:
            if old.exists():
                os.replace(old, path)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _check_replaceable(path: Path, marker: str) -> None:
    if not path.is_dir():
        raise FileExistsError(
            f"Cannot write the folder {str(path)!r}: it is a file."
        )
    if any(path.iterdir()) and not (path / marker).exists():
        raise FileExistsError(
            f"Will not replace the folder {str(path)!r}: it is not empty and holds "
            f"no {marker!r}. Choose another path or remove it first."
        )
