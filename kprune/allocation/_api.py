"""Functions that turn scores into masks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING
from typing import Any

from kprune.allocation._manual import Manual
from kprune.allocation.base import Allocation
from kprune.allocation.base import Request
from kprune.allocation.base import Vectors
from kprune.allocation.base import registry
from kprune.arguments import as_number
from kprune.arguments import did_you_mean

if TYPE_CHECKING:
    from kprune.cost.model import CostModel
    from kprune.session import Session

DEFAULT_REDUCE = {"macs": 0.5}
DEVICE = ("latency", "ram")
"""Costs on a device, each with its own allocation. See `kprune.latency`."""


def get(identifier: Any) -> Allocation:
    """Return an allocation.

    Args:
        identifier: `"global"`, `"uniform"` or another registered name, an
            `Allocation`, a dictionary `{group name: share to remove}`, or a
            function `f(scores) -> priorities`.

    Returns:
        An `Allocation`.

    Raises:
        ValueError: If the name is unknown. The message lists the known ones.
    """
    if isinstance(identifier, Mapping):
        return Manual(identifier)
    allocation: Allocation = registry.get(identifier)
    return allocation


def names() -> list[str]:
    """Return all names that `get` accepts."""
    return registry.names


def targets(
    reduce: Any, allocation: Allocation, cost_model: CostModel
) -> dict[str, float]:
    """Return the target after checking it.

    Args:
        reduce: Share of each cost to remove. Defaults to half of the MACs, or to
            no target if `allocation` is `Manual`, for which `{}` is allowed too.
        allocation: An `Allocation`.
        cost_model: Model of the costs that can be reduced.

    Raises:
        TypeError: If `reduce` is not a dictionary.
        ValueError: If a cost is unknown, or a share is outside (0, 1).
    """
    if reduce is None:
        return {} if isinstance(allocation, Manual) else dict(DEFAULT_REDUCE)
    if reduce == {} and isinstance(allocation, Manual):
        return {}
    return _check_reduce(reduce, cost_model.full)


def _check_reduce(reduce: Any, known: Mapping[str, Any]) -> dict[str, float]:
    """Return `reduce` with float shares, if it is valid.

    Args:
        reduce: Share of each cost to remove, such as `{"macs": 0.5}`.
        known: Costs that can be reduced, by name.

    Raises:
        TypeError: If `reduce` is not a dictionary.
        ValueError: If a cost is unknown, or a share is outside (0, 1).
    """
    if not isinstance(reduce, Mapping) or not reduce:
        raise TypeError(
            "`reduce` must map costs to the shares to remove, for example "
            f'reduce={{"macs": 0.5}} for half of the MACs. Received: {reduce!r}.'
        )
    for key, share in reduce.items():
        if key not in known:
            names = dict.fromkeys([*known, *(n for n in DEVICE if n != key)])
            raise ValueError(
                f"Cannot reduce {key!r}. {did_you_mean(key, names)}"
            )
        number = as_number(share)
        if not 0 < number < 1:
            hint = (
                f" Did you mean {number / 100:g}?" if 1 < number < 100 else ""
            )
            raise ValueError(
                f"`reduce` needs the share of the {key} to remove, a number between "
                f"0 and 1. Received: {share!r}.{hint}"
            )
    return {key: float(share) for key, share in reduce.items()}


def request(
    session: Session,
    reduce: Any = None,
    allocation: Any = "global",
    criterion: Any = None,
) -> Request:
    """Return a request for a model in its current state.

    Args:
        session: The masked model and its samples.
        reduce: Share of each cost to remove, relative to the unpruned model:
            `{"macs": 0.5}`, `{"params": 0.4}` or several. Defaults to half of
            the MACs, or to no target if `allocation` is a dictionary.
        allocation: Name, object, dictionary or function. See `get`.
        criterion: The criterion, for allocations that score again.

    Returns:
        A `Request` for the whole target, without scores.

    Raises:
        ValueError: If a cost is unknown, or a share is outside (0, 1).
    """
    allocation = get(allocation)
    costs = allocation.costs(session)
    target = targets(reduce, allocation, costs)
    alive = session.alive()
    return Request(session.graph, costs, target, {}, alive, criterion=criterion)


def allocate(
    session: Session,
    scores: Vectors,
    reduce: Any = None,
    allocation: Any = "global",
    fraction: float = 1.0,
    criterion: Any = None,
) -> Vectors:
    """Decide which channels to keep.

    Args:
        session: The masked model and its samples.
        scores: Prunable group name -> scores of shape `(size,)`. Channels with
            larger scores are more important. See `Session.score`.
        reduce: See `request`.
        allocation: Name, object, dictionary or function. See `get`.
        fraction: Share of the target to reach now, from 0 to 1.
        criterion: The criterion of the scores, for `Rounds` and `GreedyLoss`,
            which score again. Defaults to None.

    Returns:
        Prunable group name -> float32 mask of shape `(size,)`, of 0 and 1.

    Raises:
        ValueError: If the target is out of reach, names are unknown, or the
            criterion is missing. The message says what to do.

    Example:

    ```python
    session = kprune.Session(masked)
    scores = session.score("l1")
    session.remove(kprune.allocation.allocate(session, scores, {"macs": 0.5}))
    ```
    """
    allocation = get(allocation)
    asked = dataclasses.replace(
        request(session, reduce, allocation, criterion),
        scores=scores,
        fraction=fraction,
    )
    return solve(allocation, asked, session)


def solve(
    allocation: Any, request: Request, session: Session | None = None
) -> Vectors:
    """Decide which channels to keep for a request.

    Args:
        allocation: Name, object, dictionary or function. See `get`.
        request: The target, scores and limits.
        session: The model, for allocations that run it.

    Returns:
        See `allocate`.
    """
    kept = get(allocation).solve(request, session)
    return {name: mask.astype("float32") for name, mask in kept.items()}
