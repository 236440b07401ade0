"""Slots: the removable positions of all axes, and which of them are coupled."""

from __future__ import annotations

import numpy as np


class SlotTable:
    """Issues slot ids, collects unions and pins, and solves them at once.

    Slot 0 means "never removed". Unions are only collected during the walk: one
    connected-components pass at the end is far cheaper than a union-find with
    one update per pair.
    """

    def __init__(self) -> None:
        self.count = 1
        self.reasons: list[str] = []
        self._reason_ids: dict[str, int] = {}
        self._edges: list[tuple[np.ndarray, np.ndarray]] = []
        self._pins: list[tuple[np.ndarray, int]] = []

    def new(self, size: int) -> np.ndarray:
        """Return `size` fresh slot ids."""
        self.count += size
        return np.arange(self.count - size, self.count)

    def union(self, a: np.ndarray, b: np.ndarray, why: str) -> None:
        """Couple the slots in `a` and `b`, element by element after broadcasting.

        A slot coupled with slot 0 is pinned for the reason `why`.
        """
        if a is b:
            return
        if a.shape != b.shape:
            a, b = np.broadcast_arrays(a, b)
        a, b = a.ravel(), b.ravel()
        if a.all() and b.all():
            self._edges.append((a, b))
            return
        both = (a != 0) & (b != 0)
        self._edges.append((a[both], b[both]))
        self.pin(a[b == 0], why)
        self.pin(b[a == 0], why)

    def pin(self, ids: np.ndarray, why: str, foremost: bool = False) -> None:
        """Forbid removing `ids`.

        The first reason given is reported, unless a later one is `foremost`.
        """
        ids = ids[ids != 0] if ids.size else ids.ravel()
        if not ids.size:
            return
        if why not in self._reason_ids:
            self._reason_ids[why] = len(self.reasons)
            self.reasons.append(why)
        place = 0 if foremost else len(self._pins)
        self._pins.insert(place, (ids.ravel(), self._reason_ids[why]))

    def components(self) -> np.ndarray:
        """Return the class of every slot, an array of length `count`.

        Coupled slots share a class. Classes are numbered 0, 1, ... in the order
        of their first slot; class 0 has slot 0 only.
        """
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        if self._edges:
            a = np.concatenate([e[0] for e in self._edges])
            b = np.concatenate([e[1] for e in self._edges])
            self._edges = [(a, b)]
        else:
            a = b = np.zeros(0, dtype=int)
        # csgraph needs 32-bit indices, and SciPy 1.11 does not convert them.
        ends = a.astype(np.int32), b.astype(np.int32)
        links = coo_array(
            (np.ones(a.size, dtype=bool), ends),
            shape=(self.count, self.count),
        )
        _, raw = connected_components(links, directed=False)
        _, first, inverse = np.unique(
            raw, return_index=True, return_inverse=True
        )
        order = np.empty(first.size, dtype=int)
        order[np.argsort(first)] = np.arange(first.size)
        return order[inverse]

    def pinned(self, classes: np.ndarray) -> np.ndarray:
        """Return each class' index into `reasons`, or -1 if it is removable."""
        out = np.full(int(classes.max()) + 1, -1)
        for ids, reason in reversed(self._pins):
            out[classes[ids]] = reason
        return out
