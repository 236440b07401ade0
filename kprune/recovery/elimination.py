"""Which channels the layers that read them can do without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import numpy as np

from kprune.criteria import Criterion
from kprune.criteria import register
from kprune.criteria.base import Scores
from kprune.criteria.base import by_length_elsewhere
from kprune.criteria.base import required
from kprune.data.needs import require_data
from kprune.graph.values import read
from kprune.recovery.constants import constant_home
from kprune.recovery.gram import Sums
from kprune.recovery.linear import COLUMNS
from kprune.recovery.linear import Linear
from kprune.recovery.linear import linear
from kprune.recovery.linear import living
from kprune.recovery.lockstep import Lockstep
from kprune.recovery.lockstep import Step
from kprune.session import Session

if TYPE_CHECKING:
    from kprune.graph import Group
    from kprune.graph import Member

RIDGE = 1e-4
ROWS = 100_000


@register("reconstruction")
class Reconstruction(Criterion):
    """Least-squares error that a channel leaves behind in what reads it.

    Channels are removed one by one, each time the one whose removal can best
    be made up for by the others: by refitting, in the sense of least squares,
    the kernels of the dense and convolutional layers that read the group. The
    score is the error reached when a channel goes, relative to the variance of
    the layers' outputs. With several readers their errors are added. This is
    the greedy choice of "ThiNet" (Luo et al., arXiv 1707.06342) run backwards
    and with refitted weights, in closed form as in "Optimal Brain Surgeon"
    (Hassibi and Stork, 1993). Groups that no such layer reads are scored by
    the rescaled lengths of their filters. Needs `data`, without labels; goes
    well with `recover="reconstruct"`.

    Args:
        samples: How many samples of the data to use at most.
        rows: How many rows (samples times places of the output) each layer's
            statistics use at most.

    Example:

    ```python
    masked = kprune.prune(
        model,
        criterion="reconstruction",
        data=x_train[:1024],
        recover="reconstruct",
    )
    ```
    """

    def __init__(self, samples: int = 1024, rows: int = ROWS) -> None:
        self.samples = samples
        self.rows = rows

    def check(self, session: Session | None) -> None:
        require_data(session, f"Criterion {type(self).__name__}")

    def scores(
        self, groups: Sequence[Group], session: Session | None
    ) -> Scores:
        session = required(session, self)
        readers = observe(session, groups, self.samples, self.rows)
        found = {}
        for group in groups:
            mine = members_read(group, readers)
            if mine:
                found[group.name] = _errors(group, mine)
        return by_length_elsewhere(
            found, groups, "Reconstruction", "no dense or convolutional reader"
        )


class Reader:
    """A linear layer and what it sees.

    Args:
        view: The layer as a matrix.
        sums: Sums over its rows.
        live: `(channels,)` booleans: input channels that are alive.
        filters: `(filters,)` booleans: filters that are alive.
        home: What takes a constant, see `constant_home`, or `None`.
    """

    def __init__(
        self,
        view: Linear,
        sums: Sums,
        live: np.ndarray,
        filters: np.ndarray,
        home: Any,
    ) -> None:
        self.view = view
        self.sums = sums
        self.live = live
        self.filters = filters
        self.home = home

    @property
    def constant(self) -> bool:
        """Whether a constant can be fitted."""
        return self.home is not None

    @property
    def columns(self) -> np.ndarray:
        """Indices of the living columns."""
        living = np.repeat(self.live, self.view.per_channel)
        return np.flatnonzero(living)

    def matrix(self) -> np.ndarray:
        """Return the living part of the present matrix."""
        whole = self.view.to_matrix(read(self.view.kernel).astype("float64"))
        return whole[np.ix_(self.columns, np.flatnonzero(self.filters))]

    def covariance(self) -> np.ndarray:
        """Return that of the living columns, with a small ridge."""
        columns = self.columns
        h = self.sums.covariance(self.constant)[np.ix_(columns, columns)]
        ridge = RIDGE * max(float(np.trace(h)) / max(len(h), 1), 1e-30)
        h[np.diag_indices_from(h)] += ridge
        return h

    def columns_of(self, member: Member) -> list[np.ndarray]:
        """Return, for each channel of a group, its columns among the living."""
        number = np.full(self.view.columns, -1)
        number[self.columns] = np.arange(len(self.columns))
        per = self.view.per_channel
        out = []
        for positions in member.index:
            whole = (positions[:, None] * per + np.arange(per)).ravel()
            mine = number[whole]
            out.append(mine[mine >= 0])
        return out


def observe(
    session: Session,
    groups: Sequence[Group],
    samples: int,
    rows: int = ROWS,
) -> dict[int, Reader]:
    """Return what the linear readers of some groups see, by `id(layer)`.

    Args:
        session: The masked model and its samples.
        groups: The groups.
        samples: How many samples to use at most.
        rows: How many rows of each layer to use at most.
    """
    wanted = {id(m.layer) for g in groups for m in g.consumers}
    readers: dict[int, Reader] = {}

    def look(step: Step) -> None:
        view = linear(step.layer)
        if id(step.layer) not in wanted or view is None or step.calls > 1:
            return
        live, filters = living(step.operation, view)
        if live.sum() * view.per_channel > COLUMNS:
            return
        sums = Sums(view.columns)
        total = int(view.results(step.before[0]).shape[0])
        for some, _ in view.chunks(step.input.before, total, rows):
            sums.add(some)
        readers[id(step.layer)] = Reader(
            view, sums, live, filters, constant_home(step)
        )

    inputs = session.samples.inputs(samples)
    Lockstep(session.masked, None, inputs).visit(look)
    return readers


def members_read(
    group: Group, readers: dict[int, Reader]
) -> list[tuple[Member, Reader]]:
    """Return the members through which linear layers read a group."""
    return [
        (m, readers[id(m.layer)])
        for m in group.consumers
        if id(m.layer) in readers
        and m.variable is readers[id(m.layer)].view.kernel
    ]


class _Elimination:
    """One reader while channels of one group go."""

    def __init__(self, member: Member, reader: Reader) -> None:
        h = reader.covariance()
        self.inverse = np.linalg.inv(h)
        self.weights = reader.matrix()
        self.columns = reader.columns_of(member)
        spread = np.einsum("co,co->", self.weights, h @ self.weights)
        self.scale = 1.0 / max(float(spread), 1e-30)

    def costs(self, channels: list[int]) -> np.ndarray:
        """Return by how much the error rises when each channel goes."""
        sizes = {len(self.columns[c]) for c in channels}
        if len(sizes) != 1:
            return np.array([self._cost(self.columns[c]) for c in channels])
        if sizes == {0}:
            return np.zeros(len(channels))
        index = np.array([self.columns[c] for c in channels])
        blocks = self.inverse[index[:, :, None], index[:, None, :]]
        weights = self.weights[index]
        solved = np.linalg.solve(blocks, weights)
        return self.scale * np.einsum("gco,gco->g", weights, solved)

    def _cost(self, index: np.ndarray) -> float:
        if not len(index):
            return 0.0
        weights = self.weights[index]
        solved = np.linalg.solve(self.inverse[np.ix_(index, index)], weights)
        return self.scale * float(np.einsum("co,co->", weights, solved))

    def remove(self, channel: int) -> None:
        """Take a channel out; the others make up for it."""
        index = self.columns[channel]
        if not len(index):
            return
        block = self.inverse[np.ix_(index, index)]
        rows = np.linalg.solve(block, self.inverse[index])
        change = np.linalg.solve(block, self.weights[index])
        spread = self.inverse[:, index]
        self.weights = self.weights - spread @ change
        self.inverse = self.inverse - spread @ rows


def _errors(group: Group, mine: list[tuple[Member, Reader]]) -> np.ndarray:
    """Return the error reached when each channel goes, `(group.size,)`."""
    readers = [_Elimination(member, reader) for member, reader in mine]
    alive = [
        c for c in range(group.size) if any(len(r.columns[c]) for r in readers)
    ]
    scores = np.zeros(group.size)
    total = 0.0
    while len(alive) > 1:
        costs = np.sum([r.costs(alive) for r in readers], axis=0)
        first = int(np.argmin(costs))
        channel = alive.pop(first)
        total += max(float(costs[first]), 0.0)
        # Rounding must not undo the order.
        scores[channel] = total = np.nextafter(total, np.inf)
        for reader in readers:
            reader.remove(channel)
    for channel in alive:
        scores[channel] = max(float(len(readers)), 2.0 * total)
    return scores
