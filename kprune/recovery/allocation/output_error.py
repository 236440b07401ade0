"""Allocation by the error of the model's outputs after refits."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np

from kprune.allocation._ladders import Ladder
from kprune.allocation._ladders import solve_ladders
from kprune.allocation.base import LimitedAllocation
from kprune.allocation.base import Request
from kprune.allocation.base import Vectors
from kprune.allocation.base import register
from kprune.graph import walk
from kprune.graph.values import read
from kprune.recovery._elimination import Prefixes
from kprune.recovery._elimination import Reader
from kprune.recovery._elimination import members_read
from kprune.recovery._elimination import observe
from kprune.session import Session

if TYPE_CHECKING:
    from kprune.graph import Group

_log = logging.getLogger("kprune")

LEVELS = tuple(share / 8 for share in range(1, 8))


@register("output_error")
class OutputError(LimitedAllocation):
    """Removes channels where the model's outputs change least.

    For each group separately, some shares of its channels are removed in order of
    score, the layers that read them are refitted by least squares, and the mean
    squared change of the model's outputs is measured (of logits, if they end in a
    softmax or sigmoid). Then channels are removed where the outputs change least
    per saved cost, until the target is reached. Use it with
    `criterion="reconstruction"` and `recover="reconstruct"`. Needs `data`,
    without labels.

    Args:
        samples: Number of samples for the layers' statistics.
        probe: Number of samples for comparing the outputs.
        levels: Shares of a group to try, between 0 and 1. Every second one is
            measured; the errors of the others, and of the last, are estimated
            from those of the refitted layers. Defaults to the eighths.
        keep_min: Smallest number of channels that each group keeps.
        max_share: Largest share of a group's channels to remove.

    Example:

    ```python
    masked = kprune.prune(
        model,
        criterion="reconstruction",
        allocation="output_error",
        data=x_train[:1024],
        recover="reconstruct",
    )
    ```
    """

    needs_data = True

    def __init__(
        self,
        samples: int = 1024,
        probe: int = 512,
        levels: Sequence[float] = LEVELS,
        keep_min: int = 1,
        max_share: float = 0.95,
    ) -> None:
        super().__init__(keep_min, max_share)
        shares = sorted({float(s) for s in levels})
        if not shares or shares[0] <= 0 or shares[-1] >= 1:
            raise ValueError(
                "OutputError needs shares between 0 and 1 as `levels`. Received: "
                f"{levels!r}."
            )
        self.samples = samples
        self.probe = probe
        self.levels = tuple(shares)

    def solve(self, request: Request, session: Session | None) -> Vectors:
        self.check(request)
        if self.met(request):
            return {n: request.alive[n].astype(bool) for n in request.names}
        return solve_ladders(
            request, self.ladders(request, session), self.min_channels(request)
        )

    def ladders(
        self, request: Request, session: Session | None
    ) -> list[Ladder]:
        """Return a ladder per group: channels in order of score, and output errors."""
        found = []
        for name, curve in zip(
            request.names, self.curves(request, session), strict=True
        ):
            lost = np.concatenate([[np.inf], curve[-2::-1]])
            found.append(Ladder(_order(request, name), lost))
        return found

    def curves(
        self, request: Request, session: Session | None
    ) -> list[np.ndarray]:
        """Return, for each group, the error with 0, 1, 2 ... channels removed.

        Returns:
            Convex curves of shape `(alive channels + 1,)`. The last value, with
            all channels removed, is extrapolated.
        """
        if session is None:
            raise ValueError(
                "Allocation OutputError runs the model on samples. Use it with "
                "kprune.prune(..., data=x) or in a pruning callback."
            )
        groups = session.groups
        readers = observe(session, groups, self.samples)
        probe = _Probe(session, self.probe)
        curves: dict[str, np.ndarray] = {}
        for group in sorted(groups, key=probe.first):
            order = _order(request, group.name)
            counts = self._counts(len(order))
            curves[group.name] = probe.curve(group, readers, order, counts)
        return [curves[group.name] for group in groups]

    def _counts(self, alive: int) -> list[int]:
        """Return the numbers of channels to remove for the shares, without 0."""
        counts = {alive - max(1, round(alive * (1 - s))) for s in self.levels}
        return sorted(counts - {0})


class _Probe:
    """Outputs of a model on some samples, without some channels.

    Args:
        session: The masked model and its samples.
        samples: Largest number of samples to use.
    """

    def __init__(self, session: Session, samples: int) -> None:
        inputs = session.samples.inputs(samples)
        self._session = session
        self._runs = list(session.segments.runs(inputs))
        self._tensors = walk.require_functional(session.masked).outputs
        self._reference = self._outputs(0)

    def first(self, group: Group) -> int:
        """Return the first segment that changes without channels of a group."""
        return self._session.segments.first(self._session.layers(group.name))

    def curve(
        self,
        group: Group,
        readers: dict[int, Reader],
        order: np.ndarray,
        counts: list[int],
    ) -> np.ndarray:
        """Return the convex curve of errors without 0, 1, 2 ... channels.

        Args:
            group: The group.
            readers: `id(layer)` -> reader.
            order: Its alive channels in order of removal.
            counts: Numbers of channels between which the curve is linear. If
                there are readers, every second one is measured.
        """
        mine = [
            Prefixes(member, reader, order)
            for member, reader in members_read(group, readers)
        ]
        first = self.first(group)
        points = {0: 0.0}
        for count in _some(counts) if mine else counts:
            mask = np.zeros(group.size, "float32")
            mask[order[count:]] = 1.0
            weights = [pair for p in mine for pair in p.weights(count)]
            with self._session.trial({group.name: mask}, weights):
                outputs = self._outputs(first)
            points[count] = _change(self._reference, outputs)
        _log.info("%s: output error %s", group.name, points)
        local = np.sum([p.errors for p in mine], axis=0) if mine else None
        return _convex(_between(points, local, counts), len(order))

    def _outputs(self, begin: int) -> list[np.ndarray]:
        parts = zip(*(run.outputs(begin) for run in self._runs), strict=True)
        return [
            _logits(tensor, np.concatenate([read(part) for part in some]))
            for tensor, some in zip(self._tensors, parts, strict=True)
        ]


def _order(request: Request, name: str) -> np.ndarray:
    """Return the alive channels of a group in order of score, lowest first."""
    alive = np.flatnonzero(request.alive[name])
    return alive[np.argsort(request.scores[name][alive], kind="stable")]


def _some(counts: Sequence[int]) -> Sequence[int]:
    """Return every second number, starting with the first, but not the last.

    Small errors are the hardest to estimate from those of the readers, and few
    groups lose as much as in the last.
    """
    return counts[:-1:2] or counts


def _between(
    points: dict[int, float], local: np.ndarray | None, counts: Sequence[int]
) -> dict[int, float]:
    """Estimate errors for further numbers of channels.

    In between, the error of the outputs follows that of the readers, because
    their ratio changes slowly.

    Args:
        points: Number of channels -> measured error.
        local: The readers' errors without 0, 1, 2 ... channels, or None.
        counts: The numbers of channels to estimate errors for.
    """
    measured = np.array([c for c in sorted(points) if c])
    if local is None or not len(measured):
        return points
    errors = np.array([points[c] for c in measured])
    tiny = 1e-12
    ratios = np.log(
        np.maximum(errors, tiny) / np.maximum(local[measured], tiny)
    )
    found = local[list(counts)] * np.exp(np.interp(counts, measured, ratios))
    return {**dict(zip(counts, found.tolist(), strict=True)), **points}


def _logits(tensor: Any, values: np.ndarray) -> np.ndarray:
    layer = walk.unwrap(tensor._keras_history.operation)
    activation = getattr(layer, "activation", None)
    if isinstance(layer, keras.layers.Softmax):
        activation = keras.activations.softmax
    values = values.astype("float64")
    if activation is keras.activations.softmax:
        logs = np.log(np.maximum(values, 1e-7))
        return logs - logs.mean(axis=-1, keepdims=True)
    if activation is keras.activations.sigmoid:
        inside = np.clip(values, 1e-7, 1 - 1e-7)
        return np.log(inside) - np.log1p(-inside)
    return values


def _change(before: list[np.ndarray], after: list[np.ndarray]) -> float:
    """Return the sum of mean squared changes, relative to the outputs' variances."""
    return float(
        sum(
            ((a - b) ** 2).mean() / max(float(b.var()), 1e-12)
            for a, b in zip(after, before, strict=True)
        )
    )


def _convex(points: dict[int, float], alive: int) -> np.ndarray:
    """Return the lower convex hull of points, at 0, 1 ... `alive`."""
    hull: list[tuple[int, float]] = []
    for x, y in sorted(points.items()):
        while len(hull) > 1 and _below(hull[-2], (x, y), hull[-1]):
            hull.pop()
        hull.append((x, y))
    xs, ys = zip(*hull, strict=True)
    values = np.interp(np.arange(alive + 1), xs, ys)
    if len(xs) > 1:
        slope = (ys[-1] - ys[-2]) / (xs[-1] - xs[-2])
        beyond = np.arange(alive + 1) - xs[-1]
        values = np.where(beyond > 0, ys[-1] + slope * beyond, values)
    return np.maximum.accumulate(values)


def _below(
    left: tuple[int, float], right: tuple[int, float], point: tuple[int, float]
) -> bool:
    """Return whether the line from `left` to `right` passes below a point."""
    share = (point[0] - left[0]) / (right[0] - left[0])
    return left[1] + share * (right[1] - left[1]) <= point[1]
