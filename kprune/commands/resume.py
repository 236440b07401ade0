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

    Raises:
        ValueError: The folder holds a run of another command.

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

    def __init__(self, out: Path, command: str) -> None:
        self.folder = out.with_name(f"{out.name}.resume")
        self.backup = self.folder / _BACKUP
        self.trained = self.folder / _TRAINED
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
        epochs = any(self.backup.glob("*.weights.h5"))
        return epochs or self.trained.exists()

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Create the folder for the block, and remove it if the block fails at once.

        If the block ends after an epoch, the folder stays.

        Raises:
            InterruptedRun: Ctrl-C after an epoch.
            RuntimeError: An error after an epoch, with a message on how to continue.
        """
        self.folder.mkdir(exist_ok=True)
        with atomic_file(self.folder / _COMMAND) as file:
            file.write_text(json.dumps({"command": self.command}), "utf-8")
        try:
            yield
        except (KeyboardInterrupt, Exception) as error:
            if not self.begun:
                self.remove()
                raise
            if isinstance(error, KeyboardInterrupt):
                raise InterruptedRun(f"interrupted. {self._rest()}") from None
            what = str(error).rstrip().removesuffix(".") or type(error).__name__
            raise RuntimeError(f"{what}. {self._rest()}") from error

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _rest(self) -> str:
        """Return what is left of the run, and how to continue it."""
        on = "the same command continues from there"
        if self.trained.exists():
            return (
                f"The trained model is in {str(self.trained)!r}; {on}, and kprune "
                "export writes it in any format."
            )
        return f"The state after the last saved epoch is in {str(self.folder)!r}; {on}."
