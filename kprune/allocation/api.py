"""From scores to masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING
from typing import Any

import numpy as np

from kprune.allocation.base import Allocation
from kprune.allocation.base import Problem
from kprune.allocation.base import Vectors
from kprune.allocation.base import pinned_reasons
from kprune.allocation.base import registry
from kprune.allocation.manual import Manual
from kprune.registry import as_number
from kprune.registry import did_you_mean

if TYPE_CHECKING:
    from kprune.cost.model import CostModel
    from kprune.graph import ChannelGraph

DEFAULT_REDUCE = {"macs": 0.5}


def get(identifier: Any) -> Allocation:
    """Return an allocation.

    Args:
        identifier: `"global"`, `"uniform"` or another registered name, an
            `Allocation`, a dictionary `{group name: share to remove}`, or a
            function `f(scores) -> priorities`.

    Returns:
        An `Allocation`.

    Raises:
        ValueError: An unknown name; the message lists the known ones.
    """
    if isinstance(identifier, Mapping):
        return Manual(identifier)
    allocation: Allocation = registry.get(identifier)
    return allocation


def names() -> list[str]:
    """Return all names that `get` knows."""
    return registry.names


def targets(
    reduce: Any, allocation: Allocation, cost_model: CostModel
) -> dict[str, float]:
    """Return the checked target.

    Args:
        reduce: Share of each cost to remove; `None` for half of the MACs, and
            for nothing beyond a dictionary as `allocation`. `{}` for nothing.
        allocation: An `Allocation`.
        cost_model: Costs that can be reduced.

    Raises:
        ValueError: An unknown cost, or a share outside (0, 1).
    """
    if reduce is None:
        return {} if isinstance(allocation, Manual) else dict(DEFAULT_REDUCE)
    if reduce == {} and isinstance(allocation, Manual):
        return {}
    return _check_reduce(reduce, cost_model.full)


def _check_reduce(reduce: Any, known: Mapping[str, Any]) -> dict[str, float]:
    """Return `reduce` if it is well formed.

    Args:
        reduce: Share of each cost to remove, `{"macs": 0.5}`.
        known: Costs that can be reduced, by name.

    Raises:
        TypeError: It is no dictionary.
        ValueError: An unknown cost, or a share outside (0, 1).
    """
    if not isinstance(reduce, Mapping) or not reduce:
        raise TypeError(
            "`reduce` says which share of which cost to remove, for example "
            f'reduce={{"macs": 0.5}} for half of the MACs. Received: {reduce!r}.'
        )
    for key, share in reduce.items():
        if key not in known:
            raise ValueError(
                f"Cannot reduce {key!r}. {did_you_mean(key, known)}"
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


def check(
    graph: ChannelGraph, reduce: Any, allocation: Any, cost_model: CostModel
) -> None:
    """Raise now what `allocate` would raise at the whole target.

    Args:
        graph: The model's channels.
        reduce: Share of each cost to remove, see `allocate`.
        allocation: Name, object, dictionary or function, see `get`.
        cost_model: Costs of `graph`.

    Raises:
        ValueError: Nothing can be pruned, the target is out of reach, or names
            are unknown; the message says what to do.
    """
    allocation = get(allocation)
    ones = {group.name: np.ones(group.size) for group in graph.prunable}
    allocation.check(
        pose(graph, ones, reduce, allocation, cost_model, ones, 1.0)
    )


def allocate(
    graph: ChannelGraph,
    scores: Vectors,
    reduce: Any,
    allocation: Any,
    cost_model: CostModel,
    alive: Mapping[str, np.ndarray] | None = None,
    fraction: float = 1.0,
) -> Vectors:
    """Decide which channels are kept.

    Args:
        graph: The model's channels.
        scores: For each prunable group's name `(size,)` scores, larger = keep.
        reduce: Share of each cost of `cost_model` to remove, `{"macs": 0.5}`,
            `{"params": 0.4}` or several, counted against the unpruned model.
            `None` for half of the MACs, and for nothing beyond a dictionary as
            `allocation`.
        allocation: Name, object, dictionary or function, see `get`.
        cost_model: Costs of `graph`.
        alive: For each group's name `(size,)` masks; channels at 0 stay gone and
            count as removed.
        fraction: Share of the way to go now, from 0 to 1.

    Returns:
        For each prunable group's name a float32 mask `(size,)` of 0 and 1.

    Raises:
        ValueError: Nothing can be pruned, the target is out of reach, or names
            are unknown; the message says what to do.

    Example:

    ```python
    graph = kprune.trace(model)
    scores = kprune.criteria.score_groups("l1", graph.prunable)
    masks = kprune.allocation.allocate(
        graph, scores, {"macs": 0.5}, "global", CostModel(graph)
    )
    ```
    """
    problem = pose(
        graph, scores, reduce, allocation, cost_model, alive, fraction
    )
    return solve(allocation, problem)


def solve(allocation: Any, problem: Problem) -> Vectors:
    """Decide which channels are kept, for a problem made by `pose`.

    Args:
        allocation: Name, object, dictionary or function, see `get`.
        problem: What has to be decided.

    Returns:
        As of `allocate`.
    """
    kept = get(allocation).solve(problem)
    return {name: mask.astype("float32") for name, mask in kept.items()}


def met(
    graph: ChannelGraph,
    reduce: Any,
    allocation: Any,
    cost_model: CostModel,
    alive: Mapping[str, np.ndarray],
    fraction: float = 1.0,
) -> bool:
    """Return whether `allocate` would remove nothing more.

    Args:
        graph: The model's channels.
        reduce: As of `allocate`.
        allocation: As of `allocate`.
        cost_model: Costs of `graph`.
        alive: For each group's name `(size,)` masks; 0 = gone.
        fraction: Share of the way to go, from 0 to 1.
    """
    allocation = get(allocation)
    problem = pose(graph, {}, reduce, allocation, cost_model, alive, fraction)
    return allocation.met(problem)


def pose(
    graph: ChannelGraph,
    scores: Vectors,
    reduce: Any,
    allocation: Any,
    cost_model: CostModel,
    alive: Mapping[str, np.ndarray] | None = None,
    fraction: float = 1.0,
) -> Problem:
    """Return what `allocate` has to decide; the arguments are its own.

    Raises:
        ValueError: Nothing can be pruned, an unknown cost, or a share outside
            (0, 1).
    """
    if not graph.prunable:
        raise ValueError(
            f"The model has no prunable channel. {pinned_reasons(graph)} Teach the "
            "channel graph a custom layer with kprune.register_rule, or leave fewer "
            "layers out with `skip`."
        )
    goals = targets(reduce, get(allocation), cost_model)
    living = {
        group.name: np.asarray(
            (alive or {}).get(group.name, np.ones(group.size))
        )
        != 0
        for group in graph.prunable
    }
    return Problem(graph, cost_model, goals, scores, living, fraction)
