"""Show the progress of long work."""

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

from kprune.runs.logs import numbers


def progress(console: Console | None = None) -> Progress:
    """Return a display of progress bars, for use as a context manager.

    Args:
        console: Console to draw the bars on. Defaults to standard error, so that
            standard output holds only results. If standard error is a file or a
            pipe, each step is a line of plain text.

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
        """Update a task, and print a line if a step of it is done."""
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
    """Draws one bar for a whole `fit`, with an epoch per step.

    Args:
        bars: `rich.progress.Progress`, from `progress()`.
        label: Text before the bar.
        metrics: Names of the logs to show after the bar, if present.

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
        known = numbers(logs)
        shown = [name for name in self.metrics if name in known]
        note = "  ".join(f"{name} {known[name]:.3g}" for name in shown)
        self.bars.update(self._task, completed=epoch + 1, note=note)


@contextmanager
def step(bars: Progress, label: str) -> Iterator[None]:
    """Draw a bar with one step that is done when the block ends.

    Args:
        bars: `rich.progress.Progress`, from `progress()`.
        label: Text before the bar.

    Example:

    ```python
    with progress() as bars, step(bars, "rebuilding"):
        compact = kprune.rebuild(masked)
    ```
    """
    task = bars.add_task(label, total=1, note="")
    yield
    bars.update(task, completed=1)
