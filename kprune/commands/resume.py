"""Training from the command line that can be interrupted and continued."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from collections.abc import Iterator
from pathlib import Path

from kprune.outputs import atomic_file

_COMMAND = "command.json"
_BACKUP = "backup"
_TRAINED = "trained.keras"


class InterruptedRun(KeyboardInterrupt):
    """Ctrl-C, with a message on how to continue."""


class Resumable:
    """The state of an interrupted run, next to the file that it would write.

    The folder `OUT.resume` holds the command, and the state after the last epoch or
    the trained model. The same command continues from there. Call `remove` once the
    file is written.

    Args:
        out: File that the command writes.
        command: The command line.
        files: Files and folders that the run starts from. Changed ones are not
            mixed with a state that comes from the old ones.

    Raises:
        ValueError: The folder holds a run of another command, or of files that have
            changed since.

    Example:

    ```python
    resumable = Resumable(Path("small.keras"), "kprune prune ...")
    with resumable.kept():
        backup = keras.callbacks.BackupAndRestore(resumable.backup)
        model.fit(..., callbacks=[backup])
        model.save(out)
        resumable.remove()
    ```
    """

    def __init__(
        self, out: Path, command: str, files: Iterable[Path] = ()
    ) -> None:
        self.folder = out.with_name(f"{out.name}.resume")
        self.backup = self.folder / _BACKUP
        self.trained = self.folder / _TRAINED
        self.command = command
        self.record: Path | None = None
        self._files: dict[str, str] | None = {
            str(path): _digest(path) for path in files
        }
        saved = self.folder / _COMMAND
        # A run that was killed before its first epoch ended leaves nothing to keep.
        if not saved.exists() or not self.begun:
            return
        before = json.loads(saved.read_text("utf-8"))
        if before["command"] != command:
            raise ValueError(
                f"{str(self.folder)!r} holds an interrupted run of another command. "
                f"Continue it: {before['command']}; or {self._anew()}."
            )
        if before.get("record") is not None:
            self.record = Path(before["record"])
        # Earlier versions noted fewer files, or none, so nothing can be told.
        noted = before.get("files")
        for path, digest in self._files.items():
            if noted is not None and noted.get(path, digest) != digest:
                raise ValueError(
                    f"{path!r} has changed since the interrupted run in "
                    f"{str(self.folder)!r} began. Bring back the old one to continue, "
                    f"or {self._anew()}."
                )
        self._files = noted

    @property
    def begun(self) -> bool:
        """Whether there is a saved state to continue from."""
        # Keras writes this after the weights.
        epochs = (self.backup / "training_metadata.json").exists()
        return epochs or self.trained.exists()

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Create the folder for the block, and remove it if the block fails at once.

        If the block ends after an epoch, the folder stays.

        Raises:
            InterruptedRun: Ctrl-C after an epoch.
            RuntimeError: An error after an epoch, with a message on how to continue.
        """
        if not self.begun:
            self.remove()  # Weights may be half written.
        self.folder.mkdir(exist_ok=True)
        self._note()
        try:
            yield
        except BaseException as error:
            if not self.begun:
                self.remove()
                raise
            # See `kprune.outputs.clean_exit`.
            if isinstance(error, SystemExit):
                raise
            left = self._left()
            if isinstance(error, KeyboardInterrupt):
                raise InterruptedRun(
                    f"interrupted. {left}; the same command continues from there, or "
                    f"{self._anew()}."
                ) from None
            what = str(error).rstrip().removesuffix(".") or type(error).__name__
            export = ""
            if self.trained.exists():
                export = "write that model with kprune export, "
            # The same command may well fail in the same way again.
            raise RuntimeError(
                f"{what}. {left}. Once the cause is mended, the same command "
                f"continues from there; or {export}{self._anew()}."
            ) from error

    def keep_record(self, folder: Path) -> None:
        """Note the folder of the training's record, for a run that continues.

        Args:
            folder: From `kprune.runs.folder_of`.
        """
        self.record = folder.absolute()
        self._note()

    def _note(self) -> None:
        noted = {
            "command": self.command,
            "files": self._files,
            "record": None if self.record is None else str(self.record),
        }
        with atomic_file(self.folder / _COMMAND) as file:
            file.write_text(json.dumps(noted), "utf-8")

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _left(self) -> str:
        """Return what is left of the run."""
        if self.trained.exists():
            return f"The trained model is in {str(self.trained)!r}"
        return (
            f"The state after the last saved epoch is in {str(self.folder)!r}"
        )

    def _anew(self) -> str:
        """Return how to start the run again."""
        return f"remove {str(self.folder)!r} to start again"


def _digest(path: Path) -> str:
    """Return a digest that tells whether a file or folder has changed.

    Folders may hold many images, so only names, sizes and times of their files count.
    """
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    found = hashlib.sha256()
    for folder, below, names in os.walk(path):
        below.sort()
        for name in sorted(names):
            file_path = Path(folder, name)
            # Hidden files are written by whatever views the folder.
            if name.startswith(".") or not file_path.exists():
                continue
            about = file_path.stat()
            row = (
                file_path.relative_to(path).as_posix(),
                about.st_size,
                about.st_mtime_ns,
            )
            found.update(repr(row).encode())
    return found.hexdigest()
