"""Sensitivity of a model to the removal of filters, group by group."""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from rich.console import Console
from rich.console import Group as Stack
from rich.table import Table
from rich.text import Text

from kprune.arguments import as_number
from kprune.arguments import did_you_mean
from kprune.data.arrays import Batch
from kprune.data.needs import require_loss
from kprune.data.source import Source
from kprune.display import Displayed
from kprune.display import line
from kprune.masking import is_masked
from kprune.masking import wrap
from kprune.masking.compilation import copy_compilation
from kprune.masking.devices import undivided
from kprune.outputs import atomic_file
from kprune.parts import Part
from kprune.runs.logs import numbers
from kprune.session import Session
from kprune.session.gradients import structures

SHARES = tuple(n / 20 for n in range(20))
"""Default shares of a group to remove."""

COLUMNS = 6
"""Number of shares that a printed table shows."""

_LEGEND = 24
"""Number of groups per column of a plot's legend."""


@dataclasses.dataclass(frozen=True, repr=False)
class Curve(Part):
    """Metrics of the model by number of removed filters of one group.

    Args:
        size: Number of channels of the group.
        removed: Numbers of removed channels, of shape `(points,)`, ascending from 0.
        values: Metric name -> values of shape `(points,)`.
    """

    size: int
    removed: np.ndarray
    values: dict[str, np.ndarray]

    def __post_init__(self) -> None:
        # Configurations have lists instead of arrays.
        values = {name: np.asarray(v) for name, v in self.values.items()}
        object.__setattr__(self, "removed", np.asarray(self.removed))
        object.__setattr__(self, "values", values)

    def at(self, share: float, metric: str = "loss") -> float:
        """Return the metric with this share removed, interpolated linearly."""
        shares = self.removed / self.size
        return float(np.interp(share, shares, self.values[metric]))

    def measured(self, share: float, metric: str = "loss") -> float | None:
        """Return the metric with this share removed, or None if it was not measured.

        The share is rounded down to whole filters.
        """
        wanted = counts(self.size, [share])[-1]
        found = np.flatnonzero(self.removed == wanted)
        return float(self.values[metric][found[0]]) if found.size else None

    def increase(self) -> np.ndarray:
        """Return the running maximum of the loss increase, of shape `(points,)`."""
        rise = self.values["loss"] - self.values["loss"][0]
        rise = np.where(np.isfinite(rise), rise, np.inf)
        return np.maximum.accumulate(np.maximum(rise, 0.0))


@dataclasses.dataclass(frozen=True, repr=False)
class Sensitivity(Displayed, Part):
    """The curves of all groups, measured by `kprune.sensitivity`.

    Args:
        curves: Prunable group name -> `Curve`.
        baseline: Metric name -> value with nothing removed.
        shares: The requested shares of the groups.
    """

    curves: dict[str, Curve]
    baseline: dict[str, float]
    shares: tuple[float, ...] = SHARES

    def table(self, metric: str = "loss") -> Table:
        """Return a table of one metric, with a row per group and a column per share.

        Shares are rounded down to whole filters. Cells that were not measured are
        empty.
        """
        self._check(metric)
        shares = self._columns()
        title = f"{metric} by share of a group removed"
        table = Table(title=title, title_justify="left")
        table.add_column("group", overflow="fold")
        table.add_column("filters", justify="right")
        for share in shares:
            table.add_column(f"{share:.0%}", justify="right", no_wrap=True)
        for name, curve in self.curves.items():
            cells = [_shown(curve.measured(share, metric)) for share in shares]
            table.add_row(Text(name), str(curve.size), *cells)
        return table

    def __repr__(self) -> str:
        return f"<Sensitivity of {len(self.curves)} groups>"

    def __str__(self) -> str:
        return as_text(Stack(*[self.table(metric) for metric in self.baseline]))

    def plot(self, path: str | os.PathLike[str], metric: str = "loss") -> None:
        """Draw the curves of one metric into a file.

        Args:
            path: File to write; its suffix sets the format (`.png`, `.svg`).
            metric: Name of the metric.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError(
                "Plots need matplotlib. Install it with: "
                'pip install "kprune[report]"'
            ) from error
        columns = -(-len(self.curves) // _LEGEND)
        figure = Figure(figsize=(6 + 2 * columns, 5), layout="constrained")
        self.draw(figure.subplots(), metric)
        figure.legend(
            loc="outside right upper", fontsize="small", ncols=columns
        )
        with atomic_file(path) as temporary:
            figure.savefig(temporary)

    def draw(self, axes: Any, metric: str = "loss") -> None:
        """Draw the curves of one metric into Matplotlib axes.

        Args:
            axes: `matplotlib.axes.Axes`.
            metric: Name of the metric.
        """
        self._check(metric)
        for number, (name, curve) in enumerate(self.curves.items()):
            shares = 100 * curve.removed / curve.size
            axes.plot(shares, curve.values[metric], label=name, **line(number))
        axes.axhline(self.baseline[metric], color="gray", linestyle=":")
        axes.set_xlabel("filters of one group removed [%]")
        axes.set_ylabel(metric)

    def _columns(self) -> list[float]:
        """Return up to `COLUMNS` of the requested shares, evenly spaced."""
        known = sorted({0.0, *self.shares})
        places = np.linspace(0, len(known) - 1, min(COLUMNS, len(known)))
        return [known[place] for place in np.rint(places).astype(int)]

    def _check(self, metric: str) -> None:
        if metric not in self.baseline:
            raise ValueError(
                f"Metric {metric!r} was not measured. "
                f"{did_you_mean(metric, self.baseline)}"
            )


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def as_text(renderable: Any, width: int = 100) -> str:
    """Return the plain text that `rich` prints for an object."""
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get().rstrip("\n")


def counts(size: int, shares: Iterable[float]) -> np.ndarray:
    """Return the numbers of channels for some shares, unique and ascending from 0.

    At least one channel is kept.
    """
    wanted = np.floor(np.asarray(list(shares), dtype="float64") * size + 1e-9)
    wanted = np.append(0, np.minimum(wanted, size - 1))
    return np.unique(wanted.astype(int))


def sensitivity(
    model: keras.Model,
    data: Any,
    criterion: Any = "l1",
    shares: Iterable[float] = SHARES,
    samples: int | None = None,
) -> Sensitivity:
    """Measure the effect of removing filters, for each group of channels separately.

    For each group and share, the filters with the lowest scores are masked, and the
    model is evaluated, without building or training a model. This takes
    groups x shares passes over the data.

    Args:
        model: A compiled model, plain or wrapped. It is not changed.
        data: Samples with labels: arrays `(x, y)`, a `tf.data.Dataset`, a
            `keras.utils.PyDataset` or a generator. Do not use the test set.
        criterion: The criterion that ranks filters. See `kprune.prune`.
        shares: Shares of a group's filters to remove, below 1.
        samples: Number of samples to draw at random; None for all.

    Returns:
        A `Sensitivity` with a curve per group, for the loss and all compiled metrics.
        `print` shows a table, `.plot(path)` draws the curves, and
        `kprune.duplication.Tolerance(curves=...)` uses them for an allocation.

    Raises:
        ValueError: If the model is not compiled with a loss, no filter can be removed,
            or a share is outside [0, 1).

    Example:

    ```python
    report = kprune.sensitivity(model, (x_train[:1000], y_train[:1000]))
    print(report)
    report.plot("sensitivity.png", "accuracy")
    ```

    Such curves chose the widths in "Pruning Filters for Efficient ConvNets" (Li
    et al., arXiv 1608.08710).
    """
    shares = _checked(shares)
    masked = model if is_masked(model, "sensitivity()") else wrap(model)
    if data is not None and not isinstance(data, Source):
        data = Source(data, 256, masked)
    if data is not None and samples is not None:
        data = data.sample(samples)
    session = Session(masked, data)
    require_loss(session, "sensitivity()")
    alive = session.alive()
    scores = session.score(criterion, alive)
    scan = _Scan(session)
    curves = {
        name: scan.curve(name, _order(scores[name], alive[name]), shares)
        for name in scores
    }
    return Sensitivity(curves, scan.baseline, tuple(shares))


def _checked(shares: Iterable[float]) -> list[float]:
    shares = list(shares)
    if not shares or not all(0 <= as_number(s) < 1 for s in shares):
        raise ValueError(
            "sensitivity() needs shares of filters to remove, numbers from 0 to below "
            f"1. Received: shares={shares!r}."
        )
    return shares


def _order(scores: np.ndarray, alive: np.ndarray) -> np.ndarray:
    """Return the alive channels in order of score, lowest first."""
    channels = np.flatnonzero(alive)
    return channels[np.argsort(scores[channels], kind="stable")]


class Evaluated(keras.Model):
    """A model whose metrics accumulate over batches until they are read."""

    def reset_metrics(self) -> None:
        # Since Keras 3.15, test_on_batch() resets them before each batch.
        pass

    def evaluated(self, batches: Iterable[Batch]) -> dict[str, Any]:
        """Return loss and metrics over all batches, as `evaluate` does."""
        super().reset_metrics()
        logs: dict[str, Any] = {}
        with undivided():
            for x, y, weight in batches:
                logs = self.test_on_batch(x, y, weight, return_dict=True)
        return logs


class _Scan:
    """Evaluates a masked model with masks of one group after another."""

    def __init__(self, session: Session) -> None:
        self._session = session
        # A model with its own metrics, so that the user's keep their state.
        masked = session.masked
        self._model = Evaluated(*structures(masked))
        copy_compilation(masked, self._model)
        self._batches = list(session.samples.labelled("sensitivity()"))
        self.baseline = self._evaluate()

    def _evaluate(self) -> dict[str, float]:
        logs = self._model.evaluated(self._batches)
        return numbers({"loss": logs["loss"], **logs})

    def curve(
        self, name: str, order: np.ndarray, shares: Iterable[float]
    ) -> Curve:
        """Return the curve of a group for this order of removal."""
        size = self._session.graph[name].size
        removed = counts(order.size, shares)
        points = [self.baseline]
        for count in removed[1:]:
            mask = np.zeros(size)
            mask[order[count:]] = 1
            with self._session.trial({name: mask}):
                points.append(self._evaluate())
        values = {
            key: np.array([point[key] for point in points])
            for key in self.baseline
        }
        return Curve(size, removed + size - order.size, values)
