"""Show the trials of a sweep."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from kprune.parts import code
from kprune.report import units
from kprune.sweep import asked
from kprune.sweep import best_trial
from kprune.sweep import finished

if TYPE_CHECKING:
    import optuna


def targets(study: optuna.Study) -> list[dict[str, float]]:
    """Return the targets with a finished trial, sorted."""
    found: list[dict[str, float]] = []
    for trial in finished(study):
        if trial.user_attrs["target"] not in found:
            found.append(trial.user_attrs["target"])
    return sorted(found, key=lambda target: sorted(target.items()))


def sweep_table(study: optuna.Study) -> Table:
    """Return a table of all trials, sorted by target and then from best to worst.

    A star marks the best trial of each target.
    """
    name = study.user_attrs["metric"]
    original = units.metric(name, study.user_attrs["original"])
    table = Table(title=f"original: {name} {original}", title_justify="left")
    for column in ("", "target", "method", "parts"):
        table.add_column(column)
    for column in (name, "time"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("run", overflow="fold")
    winners = {best_trial(study, target).number for target in targets(study)}
    for trial in sorted(asked(study), key=lambda t: _order(study, t)):
        table.add_row(*map(Text, _cells(trial, name, winners)))
    return table


class TrialProgress:
    """Draws a bar for the trials of a sweep, with the result of the last one.

    Args:
        bars: `rich.progress.Progress`, from `kprune.report.progress.progress`.

    Example:

    ```python
    with progress() as bars:
        kprune.sweep(model, ..., callbacks=[TrialProgress(bars)])
    ```
    """

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._task = bars.add_task("trials", total=None, note="")

    def __call__(self, study: optuna.Study, trial: Any) -> None:
        if "method" not in trial.user_attrs:
            return
        shown = asked(study)
        ended = [t for t in shown if t.state.is_finished()]
        _, target, method, parts, value, *_ = _cells(
            trial, study.user_attrs["metric"], set()
        )
        self._bars.update(
            self._task,
            total=len(shown),
            completed=len(ended),
            note=f"{' '.join(filter(None, (method, target, parts)))}: {value}",
        )


def _order(study: optuna.Study, trial: Any) -> tuple[Any, ...]:
    done = trial.state.name == "COMPLETE"
    sign = 1 if study.direction.name == "MINIMIZE" else -1
    target = sorted(trial.user_attrs["target"].items())
    return target, not done, sign * trial.value if done else 0.0


def _cells(trial: Any, name: str, winners: set[int]) -> tuple[str, ...]:
    asked = trial.user_attrs
    state = trial.state.name
    value = {"PRUNED": "ended early", "FAIL": "failed"}.get(state, "open")
    if state == "COMPLETE":
        value = units.metric(name, trial.value)
    elif state == "PRUNED" and trial.intermediate_values:
        last = trial.intermediate_values[trial.last_step]
        value += f" at {units.metric(name, last)}"
    took = trial.duration
    return (
        "*" if trial.number in winners else "",
        ", ".join(f"{k}={v:g}" for k, v in asked["target"].items()),
        asked["method"],
        code(asked["parts"]) if asked["parts"] else "",
        value,
        units.MISSING if took is None else f"{took.total_seconds():.0f} s",
        Path(asked.get("run", "")).name or asked.get("error", ""),
    )
