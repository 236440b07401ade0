"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import os
import shutil
import signal
import stat
import threading
import uuid
from collections.abc import Iterable
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kprune.arguments import suggestion

FOLDER = "saved_model"
"""The format of a path without suffix; other formats are named after theirs."""

_HDF5 = (".h5", ".hdf5", ".hdf")
"""Suffixes of the files that Keras 2 wrote."""

_FULL = "No space left on device"


@dataclasses.dataclass(frozen=True)
class Folder:
    """A kind of folder that is written and replaced as a whole.

    Args:
        marker: File that every folder of this kind has.
        own: Patterns of the kind's own files, relative to the folder. All other
            files are the user's.
    """

    marker: str
    own: tuple[str, ...]

    def owns(self, file: str) -> bool:
        """Return whether a file, relative to the folder, is one of the kind's own."""
        return any(fnmatch.fnmatchcase(file, pattern) for pattern in self.own)


SAVED_MODEL = Folder(
    "saved_model.pb",
    (
        "saved_model.pb",
        "saved_model.pbtxt",
        "fingerprint.pb",
        "keras_metadata.pb",
        "variables/variables.*",
        "assets/*",
    ),
)


def format_name(path: str | os.PathLike[str], names: Iterable[str]) -> str:
    """Return the format that a path's suffix chooses.

    Args:
        path: Where something will be written.
        names: Formats, named after their suffixes without the dot.

    Raises:
        ValueError: No format has this suffix.
    """
    suffix = Path(path).suffix
    name = suffix[1:] if suffix else FOLDER
    if name not in names:
        known = ", ".join(f".{n}" for n in sorted(names) if n != FOLDER)
        close = suggestion(suffix, [f".{n}" for n in names if n != FOLDER])
        if suffix.lower() in _HDF5:
            close = "Models are no longer written as HDF5: use .keras. "
        raise ValueError(
            f"Unknown export format {suffix!r} of {os.fspath(path)!r}. {close}Expected "
            f"a path ending in {known}, or a folder without suffix for a SavedModel."
        )
    return name


def check_suffix(
    path: str | os.PathLike[str], suffixes: tuple[str, ...], owner: str
) -> None:
    """Raise unless a path has one of the accepted suffixes.

    Args:
        path: Where something will be written.
        suffixes: Accepted suffixes, for example `(".json",)`.
        owner: What is written, for the message, for example `"A latency table"`.

    Raises:
        ValueError: The path has another suffix, or none.
    """
    if Path(path).suffix.lower() not in suffixes:
        raise ValueError(
            f"{owner} is written as {' or '.join(suffixes)}. Received: "
            f"{os.fspath(path)!r}."
        )


def check_file(path: str | os.PathLike[str]) -> None:
    """Raise if a file cannot be written under this name.

    Args:
        path: File that will be written. A symbolic link stands for its target.

    Raises:
        OSError: The name belongs to a folder or a device, the folder around it
            does not exist, or writing is not permitted.
    """
    path = Path(path)
    found = _status(path)
    target = _target(path)
    if found is None:
        _check_parent(path, target)
        return
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(
            f"Cannot write the file {str(path)!r}: it is a folder."
        )
    if not stat.S_ISREG(found.st_mode):
        raise OSError(
            f"Cannot write the file {str(path)!r}: it is a device, a pipe or a "
            "socket. Choose the name of a file."
        )
    _check_access(path, target, target.parent)


def check_folder(
    path: str | os.PathLike[str], kind: Folder | None = None
) -> None:
    """Raise if a folder cannot be written under this name.

    Args:
        path: Folder that will be written.
        kind: Kind that an existing folder must be of, unless it is empty.

    Raises:
        OSError: The name belongs to a file or to a folder of another kind, the
            folder around it does not exist, or writing is not permitted.
    """
    path = Path(path)
    found = _status(path)
    target = _target(path)
    if found is None:
        _check_parent(path, target)
        return
    if not stat.S_ISDIR(found.st_mode):
        raise FileExistsError(
            f"Cannot write the folder {str(path)!r}: it is a file."
        )
    if kind and any(path.iterdir()) and not (path / kind.marker).exists():
        raise FileExistsError(
            f"Will not replace the folder {str(path)!r}: it is not empty and holds "
            f"no {kind.marker!r}. Choose another path or remove it first."
        )
    _check_access(path, target, target.parent)


def check_root(path: str | os.PathLike[str]) -> None:
    """Raise if files cannot be written into a folder that may not exist yet.

    Args:
        path: The folder. It will be created with its parents if it is missing.

    Raises:
        OSError: The folder or one of its parents is a file, or writing is not
            permitted.
    """
    path = Path(path)
    place = _target(path)
    while _status(place) is None:
        place = place.parent
    if not place.is_dir():
        what = "it" if place == _target(path) else repr(str(place))
        raise FileExistsError(
            f"Cannot write the folder {str(path)!r}: {what} is a file."
        )
    _check_access(path, place)


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary name that becomes `path` if the block succeeds.

    The temporary file lies in the same folder, so that the last step is one
    rename. If the block raises, or the process is asked to end, `path` keeps its
    old content. A symbolic link stays a link, and the new file has the permissions
    of the one it replaces.

    Args:
        path: File to write.

    Yields:
        The path to write to; it has the same suffix.

    Raises:
        OSError: The disk is full, or the file cannot be written. See `check_file`.
    """
    path = Path(path)
    check_file(path)
    target = _target(path)
    temporary = _sibling(target)
    with clean_exit(), _naming(path, temporary):
        try:
            yield temporary
            _keep_mode(target, temporary)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str], kind: Folder) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path` if the block succeeds.

    The user's own files in an existing folder are kept.

    Args:
        path: Folder to write. An existing one is replaced only if it is empty
            or of the same kind, so that a mistyped path never destroys a folder.
        kind: Kind of the folder.

    Yields:
        The folder to write to; it does not exist yet.

    Raises:
        OSError: The disk is full, or the folder cannot be written. See
            `check_folder`.
    """
    path = Path(path)
    check_folder(path, kind)
    target = _target(path)
    temporary, old = _sibling(target), _sibling(target)
    with clean_exit(), _naming(path, temporary):
        try:
            yield temporary
            if target.exists():
                _link_user_files(target, temporary, kind)
                _keep_mode(target, temporary)
                os.replace(target, old)
            try:
                os.replace(temporary, target)
            except BaseException:
                if old.exists() and not target.exists():
                    os.replace(old, target)
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def clean_exit() -> Iterator[None]:
    """Make SIGTERM and SIGHUP end the block with an exception, as Ctrl-C does.

    By default these signals end a process at once and leave its temporary files
    behind. Handlers that the user has set are left alone.
    """
    numbers = [signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)]
    main = threading.current_thread() is threading.main_thread()
    before = {
        number: signal.SIG_DFL
        for number in numbers
        if main and signal.getsignal(number) is signal.SIG_DFL
    }

    def leave(number: int, frame: Any) -> None:
        # A second signal must not interrupt the cleanup.
        signal.signal(number, signal.SIG_IGN)
        raise SystemExit(128 + number)

    for number in before:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _naming(path: Path, temporary: Path) -> Iterator[None]:
    """Name `path` in errors that writing the temporary file raises."""
    try:
        yield
    except Exception as error:
        name = getattr(error, "filename", None)
        ours = name is None or str(name).startswith(str(temporary))
        reason = getattr(error, "strerror", None)
        if _FULL in str(error):
            reason = _FULL
        elif not (isinstance(error, OSError) and error.errno and ours):
            raise
        renamed = OSError(f"Cannot write {str(path)!r}: {reason}.")
        renamed.errno = getattr(error, "errno", None)
        raise renamed from error


def _sibling(path: Path) -> Path:
    # The suffix stays last: Keras and the runtimes read the format from it. The
    # name is short: that of `path` may be as long as the file system allows.
    suffix = path.suffix if len(path.suffix) <= 16 else ""
    return path.with_name(f".kprune-{uuid.uuid4().hex[:12]}{suffix}")


def _target(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise ValueError(
            f"{str(path)!r} cannot be the name of a file: {error}."
        ) from error


def _check_parent(path: Path, target: Path) -> None:
    if not target.parent.is_dir():
        raise FileNotFoundError(
            f"Cannot write {str(path)!r}: the folder {str(target.parent)!r} does "
            "not exist. Create it first."
        )
    _check_access(path, target.parent)


def _check_access(path: Path, *needed: Path) -> None:
    for place in needed:
        if not os.access(place, os.W_OK):
            raise PermissionError(
                f"Cannot write {str(path)!r}: no permission to write to "
                f"{str(place)!r}."
            )


def _keep_mode(target: Path, temporary: Path) -> None:
    with contextlib.suppress(FileNotFoundError, PermissionError):
        temporary.chmod(stat.S_IMODE(target.stat().st_mode))


def _link_user_files(old: Path, new: Path, kind: Folder) -> None:
    """Link the user's own files of a folder into the one that replaces it."""
    for folder, folders, files in os.walk(old):
        links = [n for n in folders if os.path.islink(os.path.join(folder, n))]
        place = Path(folder).relative_to(old)
        mine = [n for n in files if not kind.owns((place / n).as_posix())]
        for name in [*mine, *links]:
            _link(Path(folder) / name, new / place / name)
        empty = not (folders or files)
        if empty and not kind.owns((place / "_").as_posix()):
            (new / place).mkdir(parents=True, exist_ok=True)


def _link(source: Path, copy: Path) -> None:
    if copy.exists():
        return
    copy.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, copy, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, copy, follow_symlinks=False)
