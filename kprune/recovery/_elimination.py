"""Elimination of channels whose loss their readers can compensate best."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np

from kprune.data.arrays import count
from kprune.graph.values import read
from kprune.recovery._constants import constant_home
from kprune.recovery._gram import LeastSquaresSums
from kprune.recovery._linear import COLUMNS
from kprune.recovery._linear import LinearView
from kprune.recovery._linear import alive_parts
from kprune.recovery._linear import linear
from kprune.recovery._linear import seen
from kprune.session import Session
from kprune.session.program import Program
from kprune.session.program import ProgramCall

if TYPE_CHECKING:
    from kprune.graph import Group
    from kprune.graph import Member

RIDGE = 1e-4
ROWS = 100_000
PIECE = 128
"""Number of samples from which rows are drawn at once."""


class Reader:
    """A linear layer with statistics of its inputs.

    Args:
        view: The matrix view of the layer.
        sums: Sums over its rows, for the alive columns.
        alive: Booleans of shape `(channels,)`: alive input channels.
        filters: Booleans of shape `(filters,)`: alive filters.
        home: The variable for constants, or `None`. See `constant_home`.
    """

    def __init__(
        self,
        view: LinearView,
        sums: LeastSquaresSums,
        alive: np.ndarray,
        filters: np.ndarray,
        home: Any,
    ) -> None:
        self.view = view
        self.sums = sums
        self.alive = alive
        self.filters = filters
        self.home = home

    def look(self, given: Any, rows: int, samples: int) -> None:
        """Add a batch of the layer's inputs to the sums.

        Args:
            given: The batch.
            rows: Largest number of rows of all batches together.
            samples: Number of samples of all batches together.
        """
        limit = min(rows, self.view.enough(len(self.columns)))
        values = seen(given)
        # The choice of rows should not depend on the size of batches.
        for start in range(0, len(values), PIECE):
            piece = values[start : start + PIECE]
            share = -(-limit * len(piece) // samples)
            for some, *_ in self.view.chunks([piece], share, self.alive):
                self.sums.add(some)

    @property
    def constant(self) -> bool:
        """Whether a constant can be fitted too."""
        return self.home is not None

    @property
    def columns(self) -> np.ndarray:
        """Indices of the alive columns."""
        return np.flatnonzero(self.view.columns_of(self.alive))

    def matrix(self) -> np.ndarray:
        """Return the alive part of the current matrix."""
        whole = self.view.to_matrix(read(self.view.kernel).astype("float64"))
        return whole[np.ix_(self.columns, np.flatnonzero(self.filters))]

    def covariance(self) -> np.ndarray:
        """Return the covariance of the alive columns, with a small ridge."""
        h = self.sums.covariance(self.constant)
        ridge = RIDGE * max(float(np.trace(h)) / max(len(h), 1), 1e-30)
        h[np.diag_indices_from(h)] += ridge
        return h

    def columns_of(self, member: Member) -> list[np.ndarray]:
        """Return, for each channel of a group, its indices among the alive columns."""
        number = np.full(self.view.columns, -1)
        number[self.columns] = np.arange(len(self.columns))
        view = self.view
        first = np.arange(view.per_channel) * view.channels
        out = []
        for positions in member.index:
            mine = number[(positions[:, None] + first).ravel()]
            out.append(mine[mine >= 0])
        return out


def observe(
    session: Session,
    groups: Sequence[Group],
    samples: int,
    rows: int = ROWS,
) -> dict[int, Reader]:
    """Collect input statistics of the linear layers that read some groups.

    The last result per session is cached, and reused while weights and samples
    are the same.

    Args:
        session: The masked model and its samples.
        groups: The groups.
        samples: Largest number of samples to use.
        rows: Largest number of rows per layer to use.

    Returns:
        `id(layer)` -> `Reader`.
    """
    wanted = {id(m.layer) for g in groups for m in g.consumers}
    inputs = session.samples.inputs(samples)
    state = _fingerprint(session.masked, inputs, (sorted(wanted), rows))
    known = _observed.get(session)
    if known is not None and known[0] == state:
        return known[1]
    readers: dict[int, Reader] = {}
    for number, run in enumerate(session.segments.runs(inputs)):
        for call, (given, *_) in run.inputs():
            key = id(call.layer)
            if number == 0 and key in wanted:
                reader = _reader(session.segments.program, call)
                if reader is not None:
                    readers[key] = reader
            if key in readers:
                readers[key].look(given, rows, count(inputs))
    _observed[session] = (state, readers)
    return readers


def _reader(program: Program, call: ProgramCall) -> Reader | None:
    """Return a reader with empty sums, or None if it is too wide or called twice."""
    view = linear(call.layer)
    if view is None or len(program.calls_of([call.layer])) > 1:
        return None
    alive, filters = alive_parts(call.operation, view)
    columns = int(view.columns_of(alive).sum())
    if columns > COLUMNS:
        return None
    norm, rank = None, len(view.kernel.shape)
    reader = program.only_reader(call.outputs[0])
    if reader is not None:
        behind = program.calls[reader]
        rank = len(behind.tensors[0].shape)
        if len(program.calls_of([behind.layer])) == 1:
            norm = behind.layer
    home = constant_home(call.layer, norm, rank)
    return Reader(view, LeastSquaresSums(columns), alive, filters, home)


_observed: weakref.WeakKeyDictionary[Any, tuple[bytes, dict[int, Reader]]] = (
    weakref.WeakKeyDictionary()
)
"""The last result for each session, with a fingerprint of its state."""


def _fingerprint(model: Any, inputs: Any, *others: Any) -> bytes:
    """Return a digest of a model's weights, its inputs and other values."""
    digest = hashlib.blake2b(repr(others).encode())
    for part in (*model.variables, *keras.tree.flatten(inputs)):
        array = np.ascontiguousarray(read(part))
        digest.update(repr((array.shape, array.dtype)).encode())
        digest.update(array.view(np.uint8).data if array.size else b"")
    return digest.digest()


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


def _cholesky(h: np.ndarray, squares: float) -> np.ndarray:
    """Return the lower Cholesky factor of a covariance.

    If samples hardly differ, centring leaves mostly rounding errors, and the
    matrix may not be positive definite. Then the ridge grows until it is.

    Args:
        h: The covariance.
        squares: Sum of the mean squares before centring, to which rounding is
            relative.
    """
    for power in range(-9, 0):
        try:
            return np.linalg.cholesky(h)
        except np.linalg.LinAlgError:
            h = h + squares * 10.0**power * np.eye(len(h))
    return np.linalg.cholesky(h)


class Prefixes:
    """Refits of a reader without the first 0, 1, 2 ... channels of an order.

    One Cholesky factor serves all numbers of channels. Let `H` be the covariance,
    with the columns in order of removal, and `H = U' U` with `U` lower
    triangular. Then the error without the first `k` columns is the sum of squares
    of the first `k` rows of `U W`, and the inverse of `U` turns these rows into
    the changes of the other weights `W`.

    Args:
        member: The member through which the reader reads the group.
        reader: The reader.
        order: Channels of the group in order of removal.
    """

    def __init__(
        self, member: Member, reader: Reader, order: np.ndarray
    ) -> None:
        columns = reader.columns_of(member)
        gone = [columns[channel] for channel in order]
        self._ends = np.cumsum([0, *map(len, gone)])
        first = np.concatenate([np.zeros(0, int), *gone])
        rest = np.setdiff1d(np.arange(len(reader.columns)), first)
        self._columns = np.concatenate([first, rest])
        self._reader = reader
        self._old = reader.matrix()
        h = reader.covariance()[np.ix_(self._columns, self._columns)]
        total = float(np.trace(reader.sums.covariance(False)))
        upside_down = _cholesky(h[::-1, ::-1], total)
        factor = upside_down.T[::-1, ::-1]
        self._inverse = np.linalg.inv(factor)
        self._rows = factor @ self._old[self._columns]
        squares = np.cumsum((self._rows**2).sum(axis=1))
        self.errors = np.concatenate([[0.0], squares])[self._ends]
        """Errors without the first 0, 1, 2 ... channels, relative to the outputs."""
        self.errors /= max(float(squares[-1]), 1e-30)

    def weights(self, count: int) -> list[tuple[Any, np.ndarray]]:
        """Return the weights that compensate for the first `count` channels.

        Returns:
            Pairs of a variable and its value. See `Session.trial`.
        """
        reader, view = self._reader, self._reader.view
        end = self._ends[count]
        change = self._inverse[:, :end] @ self._rows[:end]
        new = self._old.copy()
        new[self._columns] -= change
        new[self._columns[:end]] = 0.0
        filters = np.flatnonzero(reader.filters)
        whole = view.to_matrix(read(view.kernel).astype("float64"))
        whole[np.ix_(reader.columns, filters)] = new
        pairs = [(view.kernel, view.to_kernel(whole))]
        if reader.home is not None:
            variable, sign = reader.home
            mean = reader.sums.rows / reader.sums.count
            constant = np.zeros(len(reader.filters))
            constant[filters] = mean @ (self._old - new)
            pairs.append((variable, read(variable) + sign * constant))
        return pairs
