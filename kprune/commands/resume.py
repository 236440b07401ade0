"""Training from the command line that can be interrupted and continued."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from kprune.outputs import atomic_file

_COMMAND = "command.json"
_BACKUP = "backup"


class InterruptedRun(KeyboardInterrupt):
    """Ctrl-C, with a message on how to continue."""


class Resumable:
    """The state of an interrupted run, next to the file that it would write.

    The folder `OUT.resume` holds the command and the state after the last epoch.
    The same command continues from there. The folder is removed when training ends.

    Args:
        out: File that the command writes.
        command: The command line.

    Raises:
        ValueError: The folder holds a run of another command.

    Example:

    ```python
    resumable = Resumable(Path("small.keras"), "kprune prune ...")
    with resumable.kept() as folder:
        model.fit(..., callbacks=[keras.callbacks.BackupAndRestore(folder)])
    ```
    """

    def __init__(self, out: Path, command: str) -> None:
        self.folder = out.with_name(f"{out.name}.resume")
        self.command = command
        saved = self.folder / _COMMAND
        if not saved.exists():
            return
        before = json.loads(saved.read_text("utf-8"))["command"]
        if before != command:
            raise ValueError(
                f"{str(self.folder)!r} holds an interrupted run of another command. "
                f"Continue it: {before}; or remove the folder."
            )

    @property
    def begun(self) -> bool:
        """Whether there is a saved state to continue from."""
        return any((self.folder / _BACKUP).glob("*.weights.h5"))

    @contextlib.contextmanager
    def kept(self) -> Iterator[Path]:
        """Yield a folder for `BackupAndRestore`; remove it after the block.

        If the block is interrupted after an epoch, the folder stays.

        Raises:
            InterruptedRun: Ctrl-C.
        """
        self.folder.mkdir(exist_ok=True)
        with atomic_file(self.folder / _COMMAND) as file:
            file.write_text(json.dumps({"command": self.command}), "utf-8")
        try:
            yield self.folder / _BACKUP
        except KeyboardInterrupt:
            if not self.begun:
                self._remove()
                raise
            raise InterruptedRun(
                f"interrupted. The state after the last epoch is in "
                f"{str(self.folder)!r}; the same command continues from there."
            ) from None
        except Exception:
            self._remove()
            raise
        self._remove()

    def _remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
