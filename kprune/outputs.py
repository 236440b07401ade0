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
"""The format of a path without suffix; others are called by their suffix."""

_FULL = "No space left on device"


@dataclasses.dataclass(frozen=True)
class Folder:
    """A folder that is one artefact.

    Args:
        marker: File that every such folder has.
        own: Patterns of the files that it is made of, relative to it. Others
            are the user's.
    """

    marker: str
    own: tuple[str, ...]

    def owns(self, file: str) -> bool:
        """Return whether a file, relative to the folder, belongs to it."""
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
        names: Formats, called by their suffixes without the dot.

    Raises:
        ValueError: No format has this suffix.
    """
    suffix = Path(path).suffix
    name = suffix[1:] if suffix else FOLDER
    if name not in names:
        known = ", ".join(f".{n}" for n in sorted(names) if n != FOLDER)
        close = suggestion(suffix, [f".{n}" for n in names if n != FOLDER])
        raise ValueError(
            f"Unknown export format {suffix!r} of {os.fspath(path)!r}. {close}Expected "
            f"a path ending in {known}, or a folder without suffix for a SavedModel."
        )
    return name


def check_suffix(
    path: str | os.PathLike[str], suffixes: tuple[str, ...], owner: str
) -> None:
    """Raise unless a path ends as its content wants it.

    Args:
        path: Where something will be written.
        suffixes: Accepted suffixes, `(".json",)`.
        owner: What is written, for the message: `"A latency table"`.

    Raises:
        ValueError: It ends differently.
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
        OSError: There is a folder or a device of this name, the folder does not
            exist, or one of them may not be written to.
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
        kind: What an existing folder must be unless it is empty; None for any.

    Raises:
        OSError: There is a file of this name, or a folder of another kind, or the
            folder around it does not exist or may not be written to.
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
    """Raise if files cannot be written into a folder, which may have to be made.

    Args:
        path: Folder that will be made, with those around it, unless it is there.

    Raises:
        OSError: It, or what it would lie in, is a file or may not be written to.
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
    old content. A symbolic link stays one, and a file that is replaced hands on
    its permissions.

    Args:
        path: File to write.

    Yields:
        The path to write to; it has the same suffix.

    Raises:
        OSError: See `check_file`; or the disk is full.
    """
    path = Path(path)
    check_file(path)
    target = _target(path)
    temporary = _sibling(target)
    with ending(), _naming(path, temporary):
        try:
            yield temporary
            _keep_mode(target, temporary)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str], kind: Folder) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path` if the block succeeds.

    What lies in an existing folder and is not of its kind stays there.

    Args:
        path: Folder to write. An existing one is replaced only if it is empty
            or of the same kind, so that a mistyped path costs nobody a folder.
        kind: What is written.

    Yields:
        The folder to write to; it does not exist yet.

    Raises:
        OSError: See `check_folder`; or the disk is full.
    """
    path = Path(path)
    check_folder(path, kind)
    target = _target(path)
    temporary, old = _sibling(target), _sibling(target)
    with ending(), _naming(path, temporary):
        try:
            yield temporary
            if target.exists():
                _hand_on(target, temporary, kind)
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
def ending() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block as Ctrl-C does.

    By default they end a process at once, and what it would have removed stays.
    Handlers of the user's own are left alone.
    """
    numbers = [signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)]
    main = threading.current_thread() is threading.main_thread()
    before = {
        number: signal.SIG_DFL
        for number in numbers
        if main and signal.getsignal(number) is signal.SIG_DFL
    }

    def leave(number: int, frame: Any) -> None:
        # A second one must not disturb the clearing up.
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
    """Say of an error in writing which file could not be written."""
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
    # name is short, for that of `path` may be as long as the file system allows.
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


def _hand_on(old: Path, new: Path, kind: Folder) -> None:
    """Put the user's own files of a folder into the one that replaces it."""
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
