"""What a criterion is: scores per channel, larger = keep."""

from __future__ import annotations

import abc
import logging
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np

from kprune.parts import Part
from kprune.registry import Registry

if TYPE_CHECKING:
    from kprune.graph import Group
    from kprune.session import Session

_log = logging.getLogger("kprune")

Scores = dict[str, np.ndarray]


class Criterion(Part, abc.ABC):
    """Tells how much each channel of each group matters; larger = keep."""

    decides_by: tuple[str, ...] = ()
    """What scores follow from: some of `kprune.parts.EVIDENCE`."""

    @abc.abstractmethod
    def check(self, session: Session | None) -> None:
        """Raise now what `scores` would lack later.

        Args:
            session: The model and its samples, or `None` where there are
                neither.
        """

    @abc.abstractmethod
    def scores(
        self, groups: Sequence[Group], session: Session | None
    ) -> Scores:
        """Return the scores, a vector `(group.size,)` for each group's name.

        Args:
            groups: Groups of channels to score.
            session: The model whose groups these are and its samples, or
                `None` where there are neither.
        """

    def at(self, progress: float) -> Criterion:
        """Return the criterion that holds once part of the target is reached.

        Itself, unless a criterion changes on the way.

        Args:
            progress: Share of the target that is reached already, from 0 to 1.
        """
        return self


class GroupCriterion(Criterion):
    """A criterion that looks at one group's weights and at nothing else."""

    decides_by = ("weights",)

    @abc.abstractmethod
    def score(self, group: Group) -> np.ndarray:
        """Return the scores `(group.size,)` of one group; larger = keep."""

    def check(self, session: Session | None) -> None:
        return None

    def scores(
        self, groups: Sequence[Group], session: Session | None
    ) -> Scores:
        return {group.name: self.score(group) for group in groups}


class FunctionCriterion(GroupCriterion):
    """A plain function `f(group) -> scores` as a criterion.

    Args:
        function: Takes a group, returns a vector `(group.size,)`.
    """

    def __init__(self, function: Callable[[Group], np.ndarray]) -> None:
        self.function = function

    def score(self, group: Group) -> np.ndarray:
        return self.function(group)


registry = Registry("criterion", Criterion, FunctionCriterion, "criteria")
register = registry.register


def get(identifier: Any) -> Criterion:
    """Return a criterion.

    Args:
        identifier: A registered name such as `"l1"`, a `Criterion`, or a function
            `f(group) -> scores (group.size,)`, larger = keep.

    Returns:
        A `Criterion`.

    Raises:
        ValueError: An unknown name; the message lists the known ones.

    Example:

    >>> kprune.criteria.get("l1")
    L1()
    """
    return registry.get(identifier)


def names() -> list[str]:
    """Return all names that `get` knows."""
    return registry.names


def kernels(group: Group) -> Iterator[np.ndarray]:
    """Yield the filters of each producer of a group, without the biases.

    One at a time: those of a residual stage are a good part of the model.

    Args:
        group: A group of channels.

    Yields:
        Arrays `(group.size, d)` in the precision of the weights.
    """
    for member in group.producers:
        if member.name != "bias":
            yield member.matrix()


def lengths(group: Group) -> np.ndarray:
    """Return the Euclidean length of each filter, `(group.size,)`."""
    squares = np.zeros(group.size)
    for kernel in kernels(group):
        squares += np.square(kernel.astype("float64")).sum(axis=1)
    return np.sqrt(squares)


def filters(group: Group) -> np.ndarray:
    """Return what produces each channel of a group, without the biases.

    Args:
        group: A group of channels.

    Returns:
        float64 array `(group.size, d)`: the filters of all producers, flattened
        and put side by side. `d` is 0 for channels that nothing produces, such
        as those of a zero padding.
    """
    empty = np.zeros((group.size, 0))
    return np.concatenate(
        [empty, *(k.astype("float64") for k in kernels(group))], axis=1
    )


def by_length_elsewhere(
    scores: Scores, groups: Sequence[Group], owner: str, lacking: str
) -> Scores:
    """Fill in groups that a criterion cannot score, by the lengths of filters.

    The lengths are rescaled so that the group's mean equals the mean of all
    scored channels, which keeps groups comparable; a log line names the groups.

    Args:
        scores: Scores of the groups that have them.
        groups: All groups.
        owner: The criterion, for messages.
        lacking: What the other groups lack, for messages.

    Raises:
        ValueError: No group has scores.
    """
    if not scores:
        raise ValueError(
            f"Criterion {owner} cannot score any of the {len(groups)} prunable "
            f"groups: they have {lacking}. Choose another criterion, for example "
            'criterion="l2".'
        )
    typical = np.concatenate(list(scores.values())).mean()
    others = [group for group in groups if group.name not in scores]
    filled = dict(scores)
    for group in others:
        own = lengths(group)
        mean = own.mean()
        filled[group.name] = own * (typical / mean) if mean else own
    if others:
        _log.info(
            "%s: groups with %s are scored by the lengths of their filters: %s",
            owner,
            lacking,
            ", ".join(group.name for group in others),
        )
    return filled


def describe(criterion: Criterion) -> str:
    """Return how messages call a criterion."""
    if isinstance(criterion, FunctionCriterion):
        return getattr(criterion.function, "__name__", repr(criterion.function))
    return type(criterion).__name__


def required(session: Session | None, criterion: Criterion) -> Session:
    """Return the session, which there must be.

    Raises:
        ValueError: There is none.
    """
    if session is None:
        raise ValueError(
            f"Criterion {describe(criterion)} runs the masked model: pass a "
            "kprune.Session(masked, data)."
        )
    return session


def score_groups(
    criterion: Any,
    groups: Sequence[Group],
    session: Session | None = None,
    alive: Mapping[str, np.ndarray] | None = None,
) -> Scores:
    """Score channels and check the result.

    Args:
        criterion: Name, object or function, see `get`.
        groups: Groups to score, for example `graph.prunable`.
        session: The masked model and its samples, see `kprune.Session`, for
            criteria that run the model. Defaults to none.
        alive: For each group's name a vector `(size,)`, 0 for channels that are
            gone. Their scores are not looked at.

    Returns:
        For each group's name float64 scores `(size,)`; 0 where not alive.

    Raises:
        ValueError: Scores of a wrong shape, NaN or infinite ones.

    Example:

    >>> graph = kprune.trace(model)
    >>> kprune.criteria.score_groups("l2", graph.prunable)["conv1"].shape
    (32,)
    """
    criterion = get(criterion)
    criterion.check(session)
    raw = criterion.scores(groups, session)
    alive = alive or {}
    return {
        group.name: _checked(
            raw[group.name],
            group,
            describe(criterion),
            np.asarray(alive.get(group.name, np.ones(group.size))) != 0,
        )
        for group in groups
    }


def _checked(
    scores: Any, group: Group, criterion: str, alive: np.ndarray
) -> np.ndarray:
    try:
        vector = np.array(keras.ops.convert_to_numpy(scores), dtype="float64")
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Criterion {criterion} must return one number per channel, a vector of "
            f"shape ({group.size},) for group '{group.name}'. It returned "
            f"{scores!r}."
        ) from error
    if vector.shape != (group.size,):
        raise ValueError(
            f"Criterion {criterion} must return one number per channel, a vector of "
            f"shape ({group.size},) for group '{group.name}'. It returned shape "
            f"{vector.shape}. Reduce over all axes but the channels', for example "
            "`member.matrix().sum(axis=1)`."
        )
    vector[~alive] = 0.0
    bad = np.flatnonzero(~np.isfinite(vector))
    if bad.size:
        raise ValueError(
            f"Criterion {criterion} gave {vector[bad[0]]} for {bad.size} of "
            f"{group.size} channels of group '{group.name}' (first: channel "
            f"{bad[0]}). {_blame(group)}"
        )
    return vector


def _blame(group: Group) -> str:
    for member in group.members:
        if not np.isfinite(member.matrix().astype("float64")).all():
            return (
                f"The weight '{member.name}' of layer '{member.layer.name}' holds "
                "NaN or infinite values: training has diverged. Lower the learning "
                "rate or add keras.callbacks.TerminateOnNaN(), and start again from "
                "weights that are finite."
            )
    return (
        "The weights are finite, so the criterion or its data is at fault: look for "
        "NaN in the data, divisions by 0 and logarithms of 0, or choose another "
        'criterion, for example criterion="l1".'
    )
