"""Progress bars for long work."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
from rich.console import Console
from rich.progress import BarColumn
from rich.progress import MofNCompleteColumn
from rich.progress import Progress
from rich.progress import TaskID
from rich.progress import TextColumn
from rich.progress import TimeElapsedColumn


def progress(console: Console | None = None) -> Progress:
    """Return a display of bars, to be used as a context manager.

    Args:
        console: Where the bars are drawn. Defaults to standard error, so that
            standard output holds results only. If that is a file or a pipe, each
            step is a line of plain text.

    Returns:
        `rich.progress.Progress`, for `FitProgress` and `step`.

    Example:

    ```python
    with progress() as bars:
        bar = FitProgress(bars, "training")
        model.fit(train, epochs=5, verbose=0, callbacks=[bar])
    ```
    """
    if console is None and not sys.stderr.isatty():
        return LineProgress(console=Console(stderr=True), disable=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=console or Console(stderr=True),
    )


class LineProgress(Progress):
    """Writes a line when a step is done, without control characters."""

    def update(self, task_id: TaskID, *args: Any, **changes: Any) -> None:
        """Take over the changes of a task; say so if a step of it is done."""
        super().update(task_id, *args, **changes)
        if changes.get("completed") is None:
            return
        task = self._tasks[task_id]
        many = task.total is not None and task.total > 1
        done = f" {task.completed:.0f}/{task.total:.0f}" if many else ""
        line = (
            f"{task.description}{done}, {task.elapsed or 0:.1f} s  "
            f"{task.fields.get('note', '')}"
        )
        print(line.rstrip(), file=self.console.file, flush=True)


class FitProgress(keras.callbacks.Callback):
    """Draws one bar for a whole `fit`, an epoch per step.

    Args:
        bars: `rich.progress.Progress`, from `progress()`.
        label: Text in front of the bar.
        metrics: Names of the logs shown behind the bar, where present.

    Example:

    ```python
    with progress() as bars:
        bar = FitProgress(bars, "fine-tuning", ("accuracy", "pruned_macs"))
        masked.fit(train, epochs=5, verbose=0, callbacks=[prune, bar])
    ```
    """

    def __init__(
        self, bars: Progress, label: str, metrics: tuple[str, ...] = ("loss",)
    ) -> None:
        super().__init__()
        self.bars = bars
        self.metrics = metrics
        self._task = bars.add_task(label, total=None, note="")

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.bars.update(self._task, total=self.params.get("epochs"))

    def on_epoch_end(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        known = logs or {}
        shown = [name for name in self.metrics if name in known]
        note = "  ".join(f"{name} {float(known[name]):.3g}" for name in shown)
        self.bars.update(self._task, completed=epoch + 1, note=note)


@contextmanager
def step(bars: Progress, label: str) -> Iterator[None]:
    """Draw a bar of one step that fills when the block ends.

    Args:
        bars: `rich.progress.Progress`, from `progress()`.
        label: Text in front of the bar.

    Returns:
        Context manager without a value.

    Example:

    ```python
    with progress() as bars, step(bars, "rebuilding"):
        compact = kprune.rebuild(masked)
    ```
    """
    task = bars.add_task(label, total=1, note="")
    yield
    bars.update(task, completed=1)
