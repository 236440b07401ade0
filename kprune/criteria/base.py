"""Base classes of criteria, and functions to score channels."""

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

from kprune.data.needs import require_loss
from kprune.parts import Part
from kprune.registry import Registry

if TYPE_CHECKING:
    from kprune.graph import Group
    from kprune.session import Session

_log = logging.getLogger("kprune")

Scores = dict[str, np.ndarray]


class Criterion(Part, abc.ABC):
    """Base class of criteria, which score the channels of groups.

    Channels with larger scores are more important.
    """

    decides_by: tuple[str, ...] = ()
    """Evidence that scores are based on: some of `kprune.parts.EVIDENCE`."""

    @abc.abstractmethod
    def check(self, session: Session | None) -> None:
        """Raise if anything is missing that `scores` needs.

        Args:
            session: The model and its samples, or `None` without them.
        """

    @abc.abstractmethod
    def scores(
        self, groups: Sequence[Group], session: Session | None
    ) -> Scores:
        """Return the scores of channels.

        Args:
            groups: Groups of channels to score.
            session: The groups' model and its samples, or `None` without them.

        Returns:
            Group name -> scores of shape `(group.size,)`.
        """

    def at(self, progress: float) -> Criterion:
        """Return the criterion to use at some progress; by default itself.

        Args:
            progress: Reached share of the target, from 0 to 1.
        """
        return self


class GroupCriterion(Criterion):
    """Base class of criteria that need only the weights of one group."""

    decides_by = ("weights",)

    @abc.abstractmethod
    def score(self, group: Group) -> np.ndarray:
        """Return the scores of one group, of shape `(group.size,)`."""

    def check(self, session: Session | None) -> None:
        return None

    def scores(
        self, groups: Sequence[Group], session: Session | None
    ) -> Scores:
        return {group.name: self.score(group) for group in groups}


class LossCriterion(Criterion):
    """Base class of criteria that use the compiled loss on labelled samples."""

    def check(self, session: Session | None) -> None:
        require_loss(session, f"Criterion {describe(self)}")


class FunctionCriterion(GroupCriterion):
    """A plain function `f(group) -> scores` as a criterion.

    Args:
        function: Function of a group that returns scores of shape `(group.size,)`.
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
            `f(group)` that returns scores of shape `(group.size,)`.

    Returns:
        A `Criterion`.

    Raises:
        ValueError: If the name is unknown. The message lists the known ones.

    Example:

    >>> kprune.criteria.get("l1")
    L1()
    """
    return registry.get(identifier)


def names() -> list[str]:
    """Return all names that `get` accepts."""
    return registry.names


def kernels(group: Group) -> Iterator[np.ndarray]:
    """Yield the filters of each producer of a group, without the biases.

    They are yielded one by one, because those of a residual stage are a large part
    of the model.

    Args:
        group: A group of channels.

    Yields:
        Arrays of shape `(group.size, d)` in the precision of the weights.
    """
    for member in group.producers:
        if member.name != "bias":
            yield member.matrix()


def lengths(group: Group) -> np.ndarray:
    """Return the Euclidean norm of each filter, of shape `(group.size,)`."""
    squares = np.zeros(group.size)
    for kernel in kernels(group):
        squares += np.square(kernel.astype("float64")).sum(axis=1)
    return np.sqrt(squares)


def filters(group: Group) -> np.ndarray:
    """Return the filters of a group's channels, without the biases.

    Args:
        group: A group of channels.

    Returns:
        float64 array of shape `(group.size, d)`: the filters of all producers,
        flattened and concatenated. `d` is 0 for channels without a producer, such
        as those of zero padding.
    """
    empty = np.zeros((group.size, 0))
    return np.concatenate(
        [empty, *(k.astype("float64") for k in kernels(group))], axis=1
    )


def by_length_elsewhere(
    scores: Scores, groups: Sequence[Group], owner: str, lacking: str
) -> Scores:
    """Score groups that a criterion cannot score by the norms of their filters.

    Norms are rescaled so that a group's mean equals the mean absolute score of all
    scored channels, which keeps groups comparable. A log line names the groups.

    Args:
        scores: Scores of the other groups.
        groups: All groups.
        owner: The criterion, for messages.
        lacking: What the groups without scores lack, for messages.

    Raises:
        ValueError: If no group has scores.
    """
    if not scores:
        raise ValueError(
            f"Criterion {owner} cannot score any of the {len(groups)} prunable "
            f"groups: they have {lacking}. Choose another criterion, for example "
            'criterion="l2".'
        )
    typical = np.abs(np.concatenate(list(scores.values()))).mean()
    others = [group for group in groups if group.name not in scores]
    filled = dict(scores)
    for group in others:
        own = lengths(group)
        mean = own.mean()
        filled[group.name] = own * (typical / mean) if mean else own
    if others:
        _log.info(
            "%s: groups with %s are scored by the norms of their filters: %s",
            owner,
            lacking,
            ", ".join(group.name for group in others),
        )
    return filled


def describe(criterion: Criterion) -> str:
    """Return the name of a criterion for messages."""
    if isinstance(criterion, FunctionCriterion):
        return getattr(criterion.function, "__name__", repr(criterion.function))
    return type(criterion).__name__


def required(session: Session | None, criterion: Criterion) -> Session:
    """Return the session, or raise if there is none.

    Raises:
        ValueError: If there is no session.
    """
    if session is None:
        raise ValueError(
            f"Criterion {describe(criterion)} runs the masked model, so it needs a "
            "session: pass kprune.Session(masked, data)."
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
        criterion: Name, object or function. See `get`.
        groups: Groups to score, for example `graph.prunable`.
        session: The masked model and its samples, for criteria that run the model.
            See `kprune.Session`.
        alive: Group name -> vector of shape `(size,)`, 0 for removed channels.
            Their scores are ignored.

    Returns:
        Group name -> float64 scores of shape `(size,)`, 0 for removed channels.

    Raises:
        ValueError: If scores have a wrong shape, or are NaN or infinite.

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
            f"{vector.shape}. Reduce over all axes except that of the channels, for "
            "example `member.matrix().sum(axis=1)`."
        )
    vector[~alive] = 0.0
    bad = np.flatnonzero(~np.isfinite(vector))
    if bad.size:
        raise ValueError(
            f"Criterion {criterion} returned {vector[bad[0]]} for {bad.size} of "
            f"{group.size} channels of group '{group.name}' (first: channel "
            f"{bad[0]}). {_blame(group)}"
        )
    return vector


def _blame(group: Group) -> str:
    for member in group.members:
        if not np.isfinite(member.matrix().astype("float64")).all():
            return (
                f"Weight '{member.name}' of layer '{member.layer.name}' has NaN or "
                "infinite values: training has diverged. Lower the learning rate or "
                "add keras.callbacks.TerminateOnNaN(), and start again from finite "
                "weights."
            )
    return (
        "The weights are finite, so the cause is the criterion or its data: check for "
        "NaN in the data, divisions by 0 and logarithms of 0, or choose another "
        'criterion, for example criterion="l1".'
    )
