"""Predict the latency of a model at any widths."""

from __future__ import annotations

import logging
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kprune.cost.evaluator import parted
from kprune.cost.evaluator import trials
from kprune.cost.model import CostModel
from kprune.graph import ChannelGraph
from kprune.graph import trace
from kprune.latency.conversion import KERNELS
from kprune.latency.curve import extrapolated
from kprune.latency.curve import line
from kprune.latency.curve import staircase
from kprune.latency.curve import whole
from kprune.latency.layout import Placed
from kprune.latency.layout import fingerprint
from kprune.latency.table import LatencyTable
from kprune.latency.table import Steps
from kprune.latency.whole import Whole

_log = logging.getLogger("kprune")

KEY = "latency"

SLOWER = 0.02
"""Relative slowdown of a kernel against the unpruned one that counts as noise."""

_FURTHEST = 64
"""Maximum width of an operator, as a multiple of the largest measured one."""


class Curve:
    """Times of one operator at all widths.

    Args:
        points: Width read, width written and milliseconds; widths that do not
            vary are 0.
        widths: The largest width read and written.
        steps: Numbers of channels that it reads and writes at once; 0 if its time
            is a line.
    """

    def __init__(
        self,
        points: list[tuple[int, int, float]],
        widths: tuple[int, int],
        steps: Steps,
    ) -> None:
        self._read = np.array(sorted({read for read, _, _ in points}), float)
        rows = [
            self._row(
                [(w, ms) for r, w, ms in points if r == read],
                widths[1],
                steps[1],
            )
            for read in self._read
        ]
        self._table = np.stack(rows)
        span = whole(np.arange(widths[0] + 1), max(1, steps[0]))
        # Weights of the measured rows for every width that can be read.
        self._weights = np.stack(
            [
                line_weights(self._read, number, span)
                for number in range(len(self._read))
            ],
            axis=-1,
        )
        self._least = 0.1 * self._table.min(axis=0)

    @staticmethod
    def _row(
        points: list[tuple[int, float]], width: int, step: int
    ) -> np.ndarray:
        if width == 0:
            return np.array([points[0][1]])
        if step == 0:
            widths, times = np.array(points).T
            return line(widths, times, np.arange(width + 1))
        return staircase(points, width, step)

    def __call__(self, read: Any, write: Any) -> np.ndarray:
        """Return the milliseconds at widths `(n,)`."""
        write = np.asarray(write)
        rows = self._table[:, write]  # (rows, n)
        if len(self._read) == 1:
            return rows[0]
        weights = self._weights[np.asarray(read)]  # (n, rows)
        times = np.einsum("nr,rn->n", np.atleast_2d(weights), rows)
        return np.maximum(times, self._least[write])


def line_weights(at: np.ndarray, number: int, wanted: np.ndarray) -> np.ndarray:
    """Return the weight of one measured place in the line through all of them.

    Args:
        at: `(n,)` measured places, increasing.
        number: Index of the place.
        wanted: `(m,)` places where its weight is wanted.
    """
    unit = np.zeros(len(at))
    unit[number] = 1.0
    return extrapolated(at, unit, wanted)


class LatencyModel:
    """Predicts the latency of a model for any kept channels.

    The prediction is the sum of the operators' times in the table, each without the
    overhead of running a file alone. It is multiplied by the ratio of the measured
    to the predicted time of the whole model.

    Args:
        graph: The model's channels.
        table: A table that was made for the model.

    Raises:
        ValueError: The table was not made for the model, or lacks an operator.
    """

    def __init__(self, graph: ChannelGraph, table: LatencyTable) -> None:
        name = fingerprint(graph, table.dtype)
        layout = table.layout(name)
        if layout is None:
            name = fingerprint(graph, table.dtype, version=1)
            layout = table.layout(name)
            if layout is not None:
                _log.warning(
                    "The latency table (%s) was made by an older version of kprune, "
                    "which took models for the same that differ in activations or "
                    "other settings. If they changed since, measure again.",
                    table.described(),
                )
        if layout is None:
            raise ValueError(
                f"The latency table ({table.described()}) does not know model "
                f"'{graph.model.name}', or knows it with other layers left out, or "
                "was made by an earlier version of kprune. Run "
                "kprune.latency.profile(model, table=...) on the device, or write "
                "files for the device with `kprune latency files`."
            )
        self.sizes = np.array([group.size for group in graph.prunable])
        self.operators = layout.operators
        _check_groups(table, name, layout.operators, self.sizes)
        self._constants, self._slopes = _functions(
            layout.operators, len(self.sizes)
        )
        full = self._widths(self.sizes[None])[0]
        self._curves = [
            _curve(table, placed, (int(read), int(write)))
            for placed, read, write in zip(
                layout.operators, full[0::2], full[1::2], strict=True
            )
        ]
        self._overhead = table.overhead or 0.0
        self.scale = 1.0
        ratios = [
            whole / float(self(kept)) for kept, whole in table.wholes(name)
        ]
        self.scale = float(np.median(ratios)) if ratios else 1.0

    def __call__(self, kept: Any) -> np.ndarray:
        """Return the milliseconds for kept counts `(groups,)` or `(n, groups)`."""
        return self.each(kept).sum(axis=-1) + self.scale * self._overhead

    def each(self, kept: Any, only: list[int] | None = None) -> np.ndarray:
        """Return the milliseconds of every operator.

        Args:
            kept: `(groups,)` or `(n, groups)` kept channels.
            only: Indices of operators. Defaults to all.

        Returns:
            `(operators,)` or `(n, operators)`.
        """
        kept = np.asarray(kept)
        rows = np.atleast_2d(kept).astype(int)
        chosen = np.arange(len(self.operators)) if only is None else only
        chosen = np.asarray(chosen, int)
        widths = self._widths(rows, chosen)
        columns = [
            self._curves[position](widths[:, 2 * n], widths[:, 2 * n + 1])
            for n, position in enumerate(chosen)
        ]
        times = np.stack(columns, axis=-1) - self._overhead
        times = self.scale * np.maximum(times, 0.0)
        return times if kept.ndim > 1 else times[0]

    def _widths(
        self, rows: np.ndarray, only: np.ndarray | None = None
    ) -> np.ndarray:
        """Return the width read and the width written of each operator in turn."""
        if only is None:
            found = self._constants + rows @ self._slopes
        else:
            columns = np.stack([2 * only, 2 * only + 1], axis=-1).ravel()
            found = self._constants[columns] + rows @ self._slopes[:, columns]
        return np.rint(found).astype(int)


def _functions(
    operators: Sequence[Placed], groups: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the constants and slopes of all widths; 0 for widths that are fixed."""
    constants = np.zeros(2 * len(operators))
    slopes = np.zeros((groups, 2 * len(operators)))
    for n, placed in enumerate(operators):
        for column, width in enumerate((placed.reads, placed.writes)):
            if width is not None:
                constants[2 * n + column] = width.constant
                for group, slope in width.slopes.items():
                    slopes[group, 2 * n + column] = slope
    return constants, slopes


def _check_groups(
    table: LatencyTable,
    name: str,
    operators: Sequence[Placed],
    sizes: np.ndarray,
) -> None:
    """Raise if the groups of a model in a table do not fit the model."""
    groups = {number for placed in operators for number in placed.groups()}
    kept = [counts for counts, _ in table.wholes(name)]
    fits = max(groups, default=-1) < len(sizes) and all(
        len(counts) == len(sizes) and np.all(np.array(counts) <= sizes)
        for counts in kept
    )
    if not fits:
        raise _damaged(table, f"the groups of model {name}")


def _damaged(table: LatencyTable, where: str) -> ValueError:
    return ValueError(
        f"The latency table ({table.described()}) is damaged: {where} do not fit "
        "the model. Run kprune.latency.profile again, with another table."
    )


def _curve(
    table: LatencyTable, placed: Placed, widths: tuple[int, int]
) -> Curve:
    points = table.points(placed.key)
    if not points:
        raise ValueError(
            f"The latency table ({table.described()}) lacks the operator "
            f"{placed.key}. Run kprune.latency.profile again."
        )
    widest = np.max([(read, write) for read, write, _ in points], axis=0)
    if np.any(np.array(widths) > _FURTHEST * np.maximum(widest, 1)):
        raise _damaged(table, f"the widths of {placed.key}")
    kind = placed.key.partition("(")[0]
    return Curve(points, widths, table.steps.get(kind, (0, 0)))


class Operators:
    """Compares the times of operators for different widths of a group.

    Args:
        latency: The model's predicted latency.
    """

    def __init__(self, latency: LatencyModel) -> None:
        self._latency = latency
        members = [op.groups() for op in latency.operators]
        self._touching = [
            [n for n, groups in enumerate(members) if g in groups]
            for g in range(len(latency.sizes))
        ]
        self._near = [
            {other for n in touching for other in members[n]}
            for touching in self._touching
        ]
        self._kernel = np.array(
            [op.key.startswith(KERNELS) for op in latency.operators]
        )
        self._limit = (1 + SLOWER) * latency.each(latency.sizes)

    def near(self, group: int) -> set[int]:
        """Return the groups that share operators with a group."""
        return self._near[group]

    def saved(
        self, kept: np.ndarray, group: int, widths: np.ndarray
    ) -> np.ndarray:
        """Return the milliseconds that widths of one group save.

        This is `-inf` where a kernel would become slower than it is now and than in
        the unpruned model. It can already be slower, in a model that was pruned by
        other means.

        Args:
            kept: `(groups,)` channels that each group keeps now.
            group: Index of the group.
            widths: `(n,)` numbers of channels to try.
        """
        touching = self._touching[group]
        times = self._latency.each(trials(kept, group, widths), touching)
        now, then = times[0], times[1:]
        kernel = self._kernel[touching]
        limit = np.maximum(self._limit[touching], now)
        fine = (then <= limit)[:, kernel].all(axis=1)
        return np.where(fine, now.sum() - then.sum(axis=1), -np.inf)


class TimedCostModel(CostModel):
    """Costs of a model, including its latency.

    Args:
        graph: The model's channels.
        latency: Its predicted latency.
        whole: The runtime's estimate for the whole model, if it has one. It takes
            precedence over the prediction.
    """

    stairs = frozenset({KEY})

    def __init__(
        self,
        graph: ChannelGraph,
        latency: LatencyModel,
        whole: Whole | None = None,
    ) -> None:
        super().__init__(graph)
        self.latency = latency
        self.whole = whole
        self.estimated = frozenset() if whole is None else frozenset({KEY})
        self._operators = Operators(latency)

    def evaluate(self, kept: Any) -> dict[str, Any]:
        """Return the cost, with `"latency"` in milliseconds."""
        kept = np.asarray(kept)
        milliseconds: Callable[[np.ndarray], Any] = self.latency
        if self.whole is not None and kept.ndim == 1:
            milliseconds = self.whole
        return {**super().evaluate(kept), KEY: milliseconds(kept)}

    def savings(
        self,
        kept: np.ndarray,
        group: int,
        widths: np.ndarray,
        budgets: Mapping[str, float],
    ) -> dict[str, np.ndarray]:
        _, others = parted(budgets, {KEY})
        saved = super().savings(kept, group, widths, others)
        times = self._operators.saved(kept, group, widths)
        if KEY in budgets:
            saved[KEY] = times
        # A width that makes a kernel slower is not allowed, whatever it saves.
        return {
            n: np.where(times == -np.inf, times, s) for n, s in saved.items()
        }

    def near(self, group: int, names: Iterable[str]) -> Collection[int]:
        others = [name for name in names if name != KEY]
        coupled = super().near(group, others) if others else ()
        return {*coupled, *self._operators.near(group)}


def predict(model: keras.Model, table: LatencyTable) -> float:
    """Predict the latency of a model from measured operators.

    Args:
        model: A functional model, masked or not. For a masked model this is the
            latency of its compact version, which does not have to be built.
        table: A table from `profile` or `load` that was made for the model.

    Returns:
        Milliseconds per sample.

    Raises:
        ValueError: The table was not made for the model.
    """
    from kprune.masking import is_masked
    from kprune.masking import masks
    from kprune.masking import wrap

    masked = model if is_masked(model) else wrap(model)
    graph = trace(masked)
    alive = masks(masked, graph)
    kept = np.array([int((alive[g.name] > 0).sum()) for g in graph.prunable])
    return float(LatencyModel(graph, table)(kept))
