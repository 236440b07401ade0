"""Values of sets of a group's channels, as in game theory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kprune.masking.removal import removed_values

if TYPE_CHECKING:
    from kprune.graph import Group
    from kprune.session import Session


class Coalitions:
    """The game whose players are the channels of a group.

    The value of a set is minus the mean compiled loss of the model with only
    these channels of the group, and the current channels of all other groups. All
    sets are measured on the same samples, in inference mode. Values are cached.

    Args:
        session: A masked model, and samples with targets.
        samples: Number of samples to draw; `None` for all.
        seed: Seed of the draw.
    """

    def __init__(
        self, session: Session, samples: int | None, seed: int = 0
    ) -> None:
        self._session = session
        self._samples = samples
        self._seed = seed
        self._known: dict[tuple[str, bytes], float] = {}

    def values(self, group: Group, sets: np.ndarray) -> np.ndarray:
        """Return the values of several sets of channels, of shape `(n,)`.

        Args:
            group: A prunable group.
            sets: Booleans of shape `(n, size)`; a set may be empty.
        """
        keys = [(group.name, one.tobytes()) for one in sets]
        missing = {
            key: one
            for key, one in zip(keys, sets, strict=True)
            if key not in self._known
        }
        trials = {key: one for key, one in missing.items() if one.any()}
        losses = self._losses(group, list(trials.values()))
        self._known.update(zip(trials, -losses, strict=True))
        for key in missing.keys() - trials.keys():
            self._known[key] = -self._empty(group)
        return np.array([self._known[key] for key in keys])

    def interactions(
        self, group: Group, pairs: np.ndarray, contexts: np.ndarray
    ) -> np.ndarray:
        """Return the interactions of pairs of channels.

        The interaction is the mean of `v(S + i + j) - v(S + i) - v(S + j) + v(S)`
        over sets `S`.

        Args:
            group: A prunable group.
            pairs: Channels, of shape `(pairs, 2)`.
            contexts: Booleans of shape `(pairs, n, size)`: the sets `S` of each
                pair, without its channels.

        Returns:
            Array of shape `(pairs,)`.
        """
        rows = np.arange(len(pairs))
        total = np.zeros(contexts.shape[:2])
        for first in (False, True):
            for second in (False, True):
                sets = contexts.copy()
                sets[rows, :, pairs[:, 0]] = first
                sets[rows, :, pairs[:, 1]] = second
                values = self.values(group, sets.reshape(-1, group.size))
                sign = 1.0 if first == second else -1.0
                total += sign * values.reshape(total.shape)
        return total.mean(axis=1)

    def _losses(self, group: Group, sets: Sequence[np.ndarray]) -> np.ndarray:
        if not sets:
            return np.zeros(0)
        trials = [{group.name: one.astype("float32")} for one in sets]
        return np.array(self._session.losses(trials, self._samples, self._seed))

    def _empty(self, group: Group) -> float:
        """Return the loss with zero weights for the group, as masks need a channel."""
        session = self._session
        weights = removed_values(
            session.masked, session.graph, {group.name: np.zeros(group.size)}
        )
        with session.trial(weights=weights):
            return session.loss(None, self._samples, self._seed)
