"""What an allocation is: which channels each group keeps."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable
from collections.abc import Mapping
from typing import TYPE_CHECKING
from typing import Any

import numpy as np

from kprune.allocation._blocks import remove_blocks_until
from kprune.allocation._blocks import whole_blocks
from kprune.allocation._ladders import Ladder
from kprune.allocation._solver import fits
from kprune.arguments import name_of
from kprune.arguments import share
from kprune.arguments import whole
from kprune.cost.model import CostModel
from kprune.parts import Part
from kprune.registry import Registry

if TYPE_CHECKING:
    from kprune.graph import ChannelGraph
    from kprune.session import Session

Vectors = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Request:
    """An allocation's task as plain data: a target, scores and limits.

    Args:
        graph: The model's channels.
        cost_model: Costs under any kept counts of `graph.prunable`.
        reduce: Share of each cost that has to go in the end, `{"macs": 0.5}`;
            empty where the allocation alone decides.
        scores: For each prunable group's name `(size,)` scores, larger = keep.
        alive: For each prunable group's name `(size,)` booleans; channels that
            are gone already stay gone.
        fraction: Share of the way to go now, from 0 to 1.
        criterion: What gave the scores, for allocations that score again.
    """

    graph: ChannelGraph
    cost_model: CostModel
    reduce: Mapping[str, float]
    scores: Vectors
    alive: Vectors
    fraction: float = 1.0
    criterion: Any = None

    @property
    def names(self) -> list[str]:
        """Names of the prunable groups, in the order of all count vectors."""
        return [group.name for group in self.graph.prunable]

    @property
    def living(self) -> np.ndarray:
        """`(groups,)` channels of each prunable group that are not gone."""
        return np.array(
            [int(self.alive[name].astype(bool).sum()) for name in self.names]
        )

    @property
    def sizes(self) -> np.ndarray:
        """`(groups,)` channels of each prunable group before any pruning."""
        return np.array([group.size for group in self.graph.prunable])

    def ceilings(self, fraction: float | None = None) -> dict[str, float]:
        """Return the highest cost allowed, for each key of `reduce`."""
        share = self.fraction if fraction is None else fraction
        full = self.cost_model.full
        # A relative 1e-12, so that rounding does not cost a filter.
        return {
            key: float(full[key]) * (1.0 - share * goal + 1e-12)
            for key, goal in self.reduce.items()
        }

    def progress(self, kept: np.ndarray | None = None) -> float:
        """Return the share of the whole target that is reached, from 0 to 1.

        With several costs it is that of the cost with the longest way to go.

        Args:
            kept: `(groups,)` kept channels; those alive by default.
        """
        if not self.reduce:
            return 0.0
        costs = self.cost_model.evaluate(self.living if kept is None else kept)
        full = self.cost_model.full
        shares = [
            (1.0 - float(costs[key]) / full[key]) / goal
            for key, goal in self.reduce.items()
        ]
        return min(1.0, max(0.0, min(shares)))

    def removed(self) -> dict[str, float]:
        """Return which share of the unpruned model's costs is gone already."""
        costs, full = (
            self.cost_model.evaluate(self.living),
            self.cost_model.full,
        )
        return {key: 1.0 - float(costs[key]) / float(full[key]) for key in full}


class Allocation(Part, abc.ABC):
    """Decides which channels are kept so that a budget holds."""

    needs_loss = False
    """Whether `solve` measures the loss, and so needs data and a loss."""

    needs_data = False
    """Whether `solve` runs the model on samples."""

    criteria: tuple[Any, ...] = ()
    """Criteria beside the user's that `solve` scores with."""

    @property
    def decides_by(self) -> tuple[str, ...]:
        """What it looks at beside scores and costs: of `kprune.parts.EVIDENCE`."""
        if self.needs_loss:
            return ("loss",)
        return ("activations",) if self.needs_data else ()

    def costs(self, session: Session) -> CostModel:
        """Return the costs of a model that can be reduced."""
        return session.cost_model

    @abc.abstractmethod
    def check(self, request: Request) -> None:
        """Raise if the whole target of `request` is out of reach.

        Scores are not looked at.
        """

    @abc.abstractmethod
    def met(self, request: Request) -> bool:
        """Return whether `request` asks for nothing beyond what is gone."""

    @abc.abstractmethod
    def solve(self, request: Request, session: Session | None) -> Vectors:
        """Return, for each prunable group's name, `(size,)` booleans: kept.

        Args:
            request: What is asked.
            session: The model and its samples, for allocations that run it;
                `None` where there are only scores.
        """


class LimitedAllocation(Allocation):
    """Meets budgets within limits that hold for each group.

    Args:
        keep_min: Channels that each group keeps at least, 1 or more.
        max_share: Largest share of a group's channels that may go.
    """

    def __init__(self, keep_min: int, max_share: float) -> None:
        owner = type(self).__name__
        why = ": a group without channels cuts the model in two"
        self.keep_min = whole(keep_min, owner, "keep_min", why=why, exact=True)
        self.max_share = share(max_share, owner, "max_share", one=True)

    def floors(self, request: Request) -> np.ndarray:
        """Return `(groups,)` channels that each group keeps at least."""
        sizes = request.sizes
        removable = np.floor(self.max_share * sizes + 1e-9).astype(int)
        return np.maximum(np.minimum(self.keep_min, sizes), sizes - removable)

    @property
    def limits(self) -> str:
        """What sets the floors, for messages."""
        return (
            f"keep_min={self.keep_min} and max_share={self.max_share:g} of "
            f"{type(self).__name__}"
        )

    def check(self, request: Request) -> None:
        check_reachable(request, self.floors(request), self.limits)

    def met(self, request: Request) -> bool:
        return within_budget(request)

    @abc.abstractmethod
    def ladders(
        self, request: Request, session: Session | None
    ) -> list[Ladder]:
        """Return what each prunable group loses, for other ways to allocate."""


class RankedAllocation(LimitedAllocation):
    """Removes channels in the order of one ranking over all groups.

    Args:
        keep_min: See `LimitedAllocation`.
        max_share: See `LimitedAllocation`.
        round_to: What the number of channels that a group keeps is a multiple
            of; a group of which nothing goes keeps any number.
    """

    restore: int | None = None
    """How many blocks per group may be put back against the ranking."""

    def __init__(
        self, keep_min: int, max_share: float, round_to: int = 1
    ) -> None:
        super().__init__(keep_min, max_share)
        why = ", for example 8 to keep multiples of 8 channels"
        self.round_to = whole(
            round_to, type(self).__name__, "round_to", why=why, exact=True
        )

    def floors(self, request: Request) -> np.ndarray:
        floors = super().floors(request)
        return whole_blocks(floors, request.sizes, self.round_to)

    @property
    def limits(self) -> str:
        if self.round_to == 1:
            return super().limits
        return f"round_to={self.round_to}, {super().limits}"

    @abc.abstractmethod
    def priorities(
        self, request: Request, session: Session | None
    ) -> list[np.ndarray]:
        """Return, for each prunable group, `(size,)` values; lowest goes first."""

    def solve(self, request: Request, session: Session | None) -> Vectors:
        self.check(request)
        return solve_ranked(
            request,
            self.priorities(request, session),
            self.floors(request),
            self.restore,
            self.round_to,
        )

    def ladders(
        self, request: Request, session: Session | None
    ) -> list[Ladder]:
        """Return the logarithm of the share of its worth that a group loses.

        It counts as often as layers read the group. Over all groups that adds
        up to the logarithm of a product of shares: a few channels of a narrow
        group count as much as many of a wide one, and no group is thinned out
        because its layers are costly.
        """
        found = []
        for group, values in zip(
            request.graph.prunable,
            self.priorities(request, session),
            strict=True,
        ):
            living = np.flatnonzero(request.alive[group.name])
            order = living[np.argsort(values[living], kind="stable")]
            worth = values[order] - min(0.0, float(values[order].min()))
            # A group of equal worths, all of them 0, still has something to lose.
            worth = worth + 1e-9 * max(1e-3, float(worth.max()))
            kept = worth[::-1].cumsum()
            shares = np.concatenate([[0.0], kept / kept[-1]])
            readers = len({id(member.layer) for member in group.consumers})
            with np.errstate(divide="ignore"):
                lost = -max(1, readers) * np.log(shares)
            found.append(Ladder(order, lost))
        return found


def solve_ranked(
    request: Request,
    priorities: list[np.ndarray],
    floors: np.ndarray,
    restore: int | None,
    round_to: int = 1,
) -> Vectors:
    """Run the budget solver on a request; see `remove_blocks_until`."""
    kept = remove_blocks_until(
        round_to,
        priorities,
        [request.alive[name].astype(bool) for name in request.names],
        np.minimum(floors, request.living),
        request.cost_model.evaluate,
        request.ceilings(),
        restore,
    )
    return dict(zip(request.names, kept, strict=True))


def within_budget(request: Request) -> bool:
    """Return whether the budgets hold with the channels that are alive."""
    return fits(request.cost_model.evaluate(request.living), request.ceilings())


def check_reachable(request: Request, floors: np.ndarray, limits: str) -> None:
    """Raise unless the target holds with all groups at their floors.

    Args:
        request: The target.
        floors: `(groups,)` smallest kept counts.
        limits: What sets the floors, for the message.

    Raises:
        ValueError: The target is out of reach; the message says what is in reach
            and why.
    """
    costs = request.cost_model.evaluate(floors)
    if fits(costs, request.ceilings(1.0)):
        return
    full = request.cost_model.full
    most = {key: 1.0 - costs[key] / full[key] for key in request.reduce}
    wanted = ", ".join(f"{g:.1%} of the {k}" for k, g in request.reduce.items())
    reach = ", ".join(f"{r:.1%} of the {k}" for k, r in most.items())
    lower = {
        key: min(goal, math.floor(most[key] * 100) / 100)
        for key, goal in request.reduce.items()
    }
    raise ValueError(
        f"Cannot remove {wanted}: at most {reach} can go, with every prunable group "
        f"at the fewest channels allowed by {limits}. {pinned_reasons(request.graph)} "
        f"Ask for less, for example reduce={lower}, allow more per group with "
        "kprune.allocation.Global(keep_min=1, max_share=1.0), or unpin channels."
    )


def pinned_reasons(graph: ChannelGraph) -> str:
    """Return one sentence on what cannot be pruned and why."""
    coverage = graph.coverage
    if not coverage.pinned:
        return "No channel is pinned."
    reasons = "; ".join(f"{n}: {why}" for why, n in coverage.reasons.items())
    return f"{coverage.pinned} of {coverage.total} channels are pinned ({reasons})."


class FunctionAllocation(RankedAllocation):
    """A plain function `f(scores) -> priorities` as an allocation.

    Args:
        function: Takes the scores, `{group name: (size,)}`; returns values that
            compare across groups, in the same form. The lowest go first.
    """

    def __init__(self, function: Callable[[Vectors], Vectors]) -> None:
        super().__init__(keep_min=1, max_share=1.0)
        self.function = function

    def priorities(
        self, request: Request, session: Session | None
    ) -> list[np.ndarray]:
        result = self.function(dict(request.scores))
        vectors = []
        for group in request.graph.prunable:
            vector = np.asarray(result[group.name], dtype="float64")
            if vector.shape != (group.size,) or not np.isfinite(vector).all():
                raise ValueError(
                    f"The allocation function {name_of(self.function)} must "
                    f"return {group.size} finite numbers for group "
                    f"'{group.name}'. Received: {vector!r}."
                )
            vectors.append(vector)
        return vectors


registry = Registry("allocation", Allocation, FunctionAllocation, "allocation")
register = registry.register
