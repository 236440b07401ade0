"""Gates as masks, which is all that repairs know of."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from kprune.graph.values import read
from kprune.masking import Gate
from kprune.masking import acting_gates
from kprune.masking.state import WeightSnapshot
from kprune.session import Session


@contextlib.contextmanager
def as_masks(
    session: Session, before: WeightSnapshot
) -> Iterator[WeightSnapshot]:
    """Return a context in which masks stand for closed gates, before pruning and now.

    The model computes the same in inference. What changes in the context remains,
    but not for channels with a closed gate, which may open again.

    Args:
        session: The masked model.
        before: Its weights and masks before pruning.

    Yields:
        `before`, with masks for the gates that were closed.
    """
    with before.back_in(session.masked), _closed(session) as closed:
        past = session.snapshot() if closed else before
    with _closed(session) as closed:
        start = [(v, np.array(read(v))) for v in session.masked.variables]
        yield past
        if closed:
            _put_back(session, start)


@contextlib.contextmanager
def _closed(session: Session) -> Iterator[bool]:
    """Return a context in which masks stand for closed gates.

    Gates that depend on the sample stay as they are.

    Yields:
        Whether there are gates.
    """
    alive = session.alive()
    acting = {
        name: gate
        for name, gate in acting_gates(session.masked).items()
        if isinstance(gate, Gate)
    }
    opened = {n: alive[n] & (g.static(alive[n]) > 0) for n, g in acting.items()}
    try:
        with session.trial(opened):
            for gate in acting.values():
                gate.acts = False
            yield bool(acting)
    finally:
        for gate in acting.values():
            gate.acts = True


def _put_back(session: Session, start: list[tuple[Any, np.ndarray]]) -> None:
    """Assign the old values of everything that belongs to removed channels."""
    kept = session.graph.kept(session.alive())
    for variable, value in start:
        now = read(variable)
        if np.array_equal(now, value):
            continue
        order = np.arange(value.size).reshape(value.shape)
        places = kept.take(variable, order).ravel()
        value.flat[places] = now.ravel()[places]
        variable.assign(value)
