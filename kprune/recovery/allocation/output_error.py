"""Shares per group by what refitted groups cost the model's outputs."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kprune.allocation._ladders import solve_ladders
from kprune.allocation.base import Ladder
from kprune.allocation.base import LimitedAllocation
from kprune.allocation.base import Request
from kprune.allocation.base import Vectors
from kprune.allocation.base import register
from kprune.graph import walk
from kprune.graph.values import read
from kprune.recovery._elimination import Reader
from kprune.recovery._elimination import members_read
from kprune.recovery._elimination import observe
from kprune.session import Session

_log = logging.getLogger("kprune")

LEVELS = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875)
BATCH = 256


@register("output_error")
class OutputError(LimitedAllocation):
    """Takes from each group what the model's outputs notice least.

    For every group alone, some shares of its channels are removed in the order
    of their scores, the layers that read them are refitted by least squares,
    and the mean squared change of the model's outputs (of logits, where they
    end in a softmax or sigmoid) is measured. Then channels go, wherever the
    outputs change least for the cost that is saved, until the budget holds.
    Goes with `criterion="reconstruction"` and `recover="reconstruct"`. Needs
    `data`, without labels.

    Args:
        samples: How many samples the layers' statistics are taken of.
        probe: How many samples the outputs are compared on.
        levels: Shares of a group to try, between 0 and 1. Twice as many, on
            twice as many samples, take four times as long; docs/one_shot.md
            shows what that gave on a ResNet-20.
        keep_min: Channels that each group keeps at least.
        max_share: Largest share of a group's channels that may go.

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
            request, self.ladders(request, session), self.floors(request)
        )

    def ladders(
        self, request: Request, session: Session | None
    ) -> list[Ladder]:
        """Return the errors of the outputs, with channels in order of score."""
        found = []
        for name, curve in zip(
            request.names, self.curves(request, session), strict=True
        ):
            living = np.flatnonzero(request.alive[name])
            scores = request.scores[name][living]
            lost = np.concatenate([[np.inf], curve[-2::-1]])
            order = living[np.argsort(scores, kind="stable")]
            found.append(Ladder(order, lost))
        return found

    def curves(
        self, request: Request, session: Session | None
    ) -> list[np.ndarray]:
        """Return, for each group, the error with 0, 1, 2 ... channels removed.

        The curves are made convex: `(living + 1,)` values, the last of which,
        with nothing left, follows the slope before it.
        """
        if session is None:
            raise ValueError(
                "Allocation OutputError runs the model on samples. Use it in "
                "kprune.prune(..., data=x) or in a pruning callback."
            )
        model, groups = session.masked, session.groups
        readers = observe(session, groups, self.samples)
        probe = session.samples.inputs(self.probe)
        reference = _outputs(model, probe)
        curves = []
        for group in groups:
            living = int(request.alive[group.name].sum())
            points = {0: 0.0}
            mine = members_read(group, readers)
            for share in self.levels:
                kept = max(1, round(living * (1 - share)))
                if living - kept in points:
                    continue
                mask = _best(request, group.name, kept)
                with (
                    session.trial({group.name: mask}),
                    _refitted(mine, ~mask),
                ):
                    error = _change(reference, _outputs(model, probe))
                points[living - kept] = error
            curves.append(_convex(points, living))
            _log.info("%s: output error %s", group.name, points)
        return curves


def _best(request: Request, name: str, count: int) -> np.ndarray:
    """Return booleans: the `count` living channels of highest score."""
    living = np.flatnonzero(request.alive[name])
    order = living[np.argsort(request.scores[name][living], kind="stable")]
    mask = np.zeros(len(request.alive[name]), dtype=bool)
    mask[order[len(order) - count :]] = True
    return mask


@contextlib.contextmanager
def _refitted(
    members: list[tuple[Any, Reader]], gone: np.ndarray
) -> Iterator[None]:
    """Return a context in which readers make up for a group's removed channels."""
    before = []
    try:
        for member, reader in members:
            before.append((reader.view.kernel, read(reader.view.kernel).copy()))
            if reader.home is not None:
                home = reader.home[0]
                before.append((home, read(home).copy()))
            _refit(member, reader, gone)
        yield
    finally:
        for variable, value in before:
            variable.assign(value)


def _refit(member: Any, reader: Reader, gone: np.ndarray) -> None:
    lost = [reader.columns_of(member)[c] for c in np.flatnonzero(gone)]
    away = np.concatenate([np.zeros(0, int), *lost])
    stay = np.setdiff1d(np.arange(len(reader.columns)), away)
    h = reader.covariance()
    old = reader.matrix()
    new = np.linalg.solve(h[np.ix_(stay, stay)], h[stay] @ old)
    filters = np.flatnonzero(reader.filters)
    view = reader.view
    whole = view.to_matrix(read(view.kernel).astype("float64"))
    whole[np.ix_(reader.columns[stay], filters)] = new
    view.kernel.assign(view.to_kernel(whole))
    if reader.home is None:
        return
    variable, sign = reader.home
    mean = (reader.sums.rows / reader.sums.count)[reader.columns]
    constant = np.zeros(len(reader.filters))
    constant[filters] = mean @ old - mean[stay] @ new
    variable.assign(read(variable) + sign * constant)


def _outputs(model: keras.Model, inputs: Any) -> list[np.ndarray]:
    """Return the model's outputs, logits instead of probabilities."""
    size = len(keras.tree.flatten(inputs)[0])
    parts = []
    for start in range(0, size, BATCH):
        some = keras.tree.map_structure(
            lambda x, start=start: x[start : start + BATCH], inputs
        )
        parts.append(keras.tree.flatten(model.predict_on_batch(some)))
    whole = [np.concatenate(p) for p in zip(*parts, strict=True)]
    tensors = walk.require_functional(model).outputs
    return [_logits(t, x) for t, x in zip(tensors, whole, strict=True)]


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
    """Return the mean squared changes, relative to the outputs' variances."""
    return float(
        sum(
            ((a - b) ** 2).mean() / max(float(b.var()), 1e-12)
            for a, b in zip(after, before, strict=True)
        )
    )


def _convex(points: dict[int, float], living: int) -> np.ndarray:
    """Return the lower convex hull through points, at 0, 1 ... living."""
    hull: list[tuple[int, float]] = []
    for x, y in sorted(points.items()):
        while len(hull) > 1 and _below(hull[-2], (x, y), hull[-1]):
            hull.pop()
        hull.append((x, y))
    xs, ys = zip(*hull, strict=True)
    values = np.interp(np.arange(living + 1), xs, ys)
    if len(xs) > 1:
        slope = (ys[-1] - ys[-2]) / (xs[-1] - xs[-2])
        beyond = np.arange(living + 1) - xs[-1]
        values = np.where(beyond > 0, ys[-1] + slope * beyond, values)
    return np.maximum.accumulate(values)


def _below(
    left: tuple[int, float], right: tuple[int, float], point: tuple[int, float]
) -> bool:
    """Return whether the line from left to right runs below a point."""
    share = (point[0] - left[0]) / (right[0] - left[0])
    return left[1] + share * (right[1] - left[1]) <= point[1]
