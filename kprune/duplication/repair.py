"""Repair of a model whose filters have just become copies."""

from __future__ import annotations

from typing import Any

import numpy as np

from kprune.duplication.copies import Copies
from kprune.graph.values import read
from kprune.masking.state import WeightSnapshot
from kprune.rebuild.copies import CopyMap
from kprune.rebuild.copies import edited
from kprune.rebuild.copies import merge
from kprune.rebuild.copies import places
from kprune.rebuild.copies import split
from kprune.recovery import base as recoveries
from kprune.session import Session


def repair_copies(
    session: Session,
    before: WeightSnapshot,
    maps: dict[str, CopyMap],
    copies: Copies,
    recovery: Any,
) -> None:
    """Repair a model with copies as if they were merged into their donors.

    Copies change as their donors do. Repaired one by one, they would turn into the
    filters that they have replaced.

    Args:
        session: The masked model and its samples.
        before: Its weights before filters became copies.
        maps: Group name -> which channels are copies of which.
        copies: How they were made.
        recovery: See `kprune.recovery.recover`.
    """
    chosen = recoveries.get(recovery)
    if chosen:
        recoveries.repair(session, before, _Merged(chosen, maps, copies))


class _Merged(recoveries.Recovery):
    """Runs a recovery on the model with merged copies. See `repair_copies`."""

    def __init__(
        self,
        recovery: recoveries.Recovery,
        maps: dict[str, CopyMap],
        copies: Copies,
    ) -> None:
        super().__init__()
        self.recovery, self.maps, self.copies = recovery, maps, copies

    def __repr__(self) -> str:
        return repr(self.recovery)

    def repair(self, session: Session, before: WeightSnapshot) -> None:
        variables = session.masked.variables
        spots = places(session.graph, self.maps)
        parted = _values(variables)
        alive = session.alive()
        left = {n: alive[n] & ~known.replaced for n, known in self.maps.items()}
        with session.trial(left):
            for variable in variables:
                if mine := spots.get(id(variable)):
                    value = edited(read(variable), mine, merge(self.maps))
                    variable.assign(np.array(value))
            merged = _values(variables)
            recoveries.run(session, before, self.recovery)
            repaired = _values(variables)
        change = split(self._shared())
        for variable, old, start, end in zip(
            variables, parted, merged, repaired, strict=True
        ):
            value = old
            if not np.array_equal(start, end):
                mine = spots.get(id(variable), [])
                value = old + edited(end - start, mine, change)
            variable.assign(value.astype(old.dtype))

    def _shared(self) -> dict[str, CopyMap]:
        """Return the maps with the shares of a change of readers.

        It is divided only where copies must stay equal.
        """
        if self.copies.consumers.equal:
            return self.maps
        return {
            name: CopyMap(known.donors, 1.0 - known.replaced)
            for name, known in self.maps.items()
        }


def _values(variables: Any) -> list[np.ndarray]:
    return [np.array(read(variable)) for variable in variables]
