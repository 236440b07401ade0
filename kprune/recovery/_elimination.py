"""Which channels the layers that read them can do without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import numpy as np

from kprune.graph.values import read
from kprune.recovery._constants import constant_home
from kprune.recovery._gram import Sums
from kprune.recovery._linear import COLUMNS
from kprune.recovery._linear import Linear
from kprune.recovery._linear import linear
from kprune.recovery._linear import living
from kprune.recovery._lockstep import Lockstep
from kprune.recovery._lockstep import Step
from kprune.session import Session

if TYPE_CHECKING:
    from kprune.graph import Group
    from kprune.graph import Member

RIDGE = 1e-4
ROWS = 100_000


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
