"""Base classes of allocations, and the request they solve."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import numpy as np

from kprune.allocation._blocks import remove_blocks_until
from kprune.allocation._blocks import whole_blocks
from kprune.allocation._ladders import Ladder
from kprune.allocation._solver import by_priority
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
        graph: The model's channel graph.
        cost_model: Costs for any kept counts of `graph.prunable`.
        reduce: Share of each cost to remove in the end, such as `{"macs": 0.5}`;
            empty if the allocation alone decides.
        scores: Prunable group name -> scores of shape `(size,)`. Channels with
            larger scores are more important.
        alive: Prunable group name -> booleans of shape `(size,)`. Removed
            channels stay removed.
        fraction: Share of the target to reach now, from 0 to 1.
        criterion: The criterion of the scores, for allocations that score again.
    """

    graph: ChannelGraph
    cost_model: CostModel
    reduce: Mapping[str, float]
    scores: Vectors
    alive: Vectors
    fraction: float = 1.0
    criterion: Any = None

    def require_criterion(self, allocation: str) -> Any:
        """Return the criterion.

        Args:
            allocation: Name of the allocation that scores again.

        Raises:
            ValueError: If there is none.
        """
        if self.criterion is None:
            raise ValueError(
                f"Allocation {allocation} scores channels again, so it needs the "
                "criterion of the scores: kprune.allocation.allocate(session, scores, "
                'allocation=..., criterion="taylor"), for example.'
            )
        return self.criterion

    @property
    def names(self) -> list[str]:
        """Names of the prunable groups, in the order of all count vectors."""
        return [group.name for group in self.graph.prunable]

    @property
    def alive_counts(self) -> np.ndarray:
        """Numbers of alive channels per prunable group, of shape `(groups,)`."""
        return np.array(
            [int(self.alive[name].astype(bool).sum()) for name in self.names]
        )

    @property
    def sizes(self) -> np.ndarray:
        """Sizes of the prunable groups before any pruning, of shape `(groups,)`."""
        return np.array([group.size for group in self.graph.prunable])

    def budgets(self, fraction: float | None = None) -> dict[str, float]:
        """Return the highest allowed cost for each key of `reduce`.

        Args:
            fraction: Share of the target to reach. Defaults to that of the
                request.
        """
        share = self.fraction if fraction is None else fraction
        full = self.cost_model.full
        # The margin of 1e-12 keeps rounding from costing a filter.
        return {
            key: float(full[key]) * (1.0 - share * target + 1e-12)
            for key, target in self.reduce.items()
        }

    def progress(self, kept: np.ndarray | None = None) -> float:
        """Return the reached share of the whole target, from 0 to 1.

        With several costs, it is the smallest of their shares.

        Args:
            kept: Kept counts of shape `(groups,)`. Defaults to the alive channels.
        """
        if not self.reduce:
            return 0.0
        costs = self.cost_model.evaluate(
            self.alive_counts if kept is None else kept
        )
        full = self.cost_model.full
        shares = [
            (1.0 - float(costs[key]) / full[key]) / target
            for key, target in self.reduce.items()
        ]
        return min(1.0, max(0.0, min(shares)))

    def removed(self) -> dict[str, float]:
        """Return the removed share of each cost of the unpruned model."""
        costs, full = (
            self.cost_model.evaluate(self.alive_counts),
            self.cost_model.full,
        )
        return {key: 1.0 - float(costs[key]) / float(full[key]) for key in full}


class Allocation(Part, abc.ABC):
    """Base class of allocations, which decide which channels to keep."""

    needs_loss = False
    """Whether `solve` measures the loss, which needs labelled data."""

    needs_data = False
    """Whether `solve` runs the model on samples."""

    criteria: tuple[Any, ...] = ()
    """Criteria that `solve` uses in addition to the user's."""

    @property
    def decides_by(self) -> tuple[str, ...]:
        """Evidence used besides scores and costs: some of `kprune.parts.EVIDENCE`."""
        if self.needs_loss:
            return ("loss",)
        return ("activations",) if self.needs_data else ()

    def costs(self, session: Session) -> CostModel:
        """Return the costs of a model that can be reduced."""
        return session.cost_model

    @abc.abstractmethod
    def check(self, request: Request) -> None:
        """Raise if the whole target of `request` is out of reach.

        Scores are not used.
        """

    @abc.abstractmethod
    def met(self, request: Request) -> bool:
        """Return whether the alive channels meet `request` already."""

    @abc.abstractmethod
    def solve(self, request: Request, session: Session | None) -> Vectors:
        """Return the channels to keep.

        Args:
            request: The request.
            session: The model and its samples, for allocations that run it;
                `None` if there are only scores.

        Returns:
            Prunable group name -> booleans of shape `(size,)`.
        """


class LimitedAllocation(Allocation):
    """Base class of allocations that meet budgets within limits per group.

    Args:
        keep_min: Smallest number of channels that each group keeps, 1 or more.
        max_share: Largest share of a group's channels to remove.
    """

    def __init__(self, keep_min: int, max_share: float) -> None:
        owner = type(self).__name__
        why = ": a group without channels cuts the model in two"
        self.keep_min = whole(keep_min, owner, "keep_min", why=why, exact=True)
        self.max_share = share(max_share, owner, "max_share", one=True)

    def min_channels(self, request: Request) -> np.ndarray:
        """Return the smallest kept counts, of shape `(groups,)`."""
        sizes = request.sizes
        removable = np.floor(self.max_share * sizes + 1e-9).astype(int)
        return np.maximum(np.minimum(self.keep_min, sizes), sizes - removable)

    @property
    def limits(self) -> str:
        """The arguments that set the smallest kept counts, for messages."""
        return (
            f"keep_min={self.keep_min} and max_share={self.max_share:g} of "
            f"{type(self).__name__}"
        )

    @property
    def looser(self) -> list[str]:
        """The arguments that would let groups lose more, for messages."""
        known = {"keep_min": self.keep_min > 1, "max_share": self.max_share < 1}
        values = {"keep_min": "1", "max_share": "1.0"}
        return [
            f"{key}={values[key]}" for key, limits in known.items() if limits
        ]

    def check(self, request: Request) -> None:
        check_reachable(
            request,
            self.min_channels(request),
            self.limits,
            called(self, self.looser),
        )

    def met(self, request: Request) -> bool:
        return within_budget(request)

    @abc.abstractmethod
    def ladders(
        self, request: Request, session: Session | None
    ) -> list[Ladder]:
        """Return the ladder of each prunable group, for other allocations."""


class RankedAllocation(LimitedAllocation):
    """Base class of allocations that rank the channels of all groups.

    Args:
        keep_min: See `LimitedAllocation`.
        max_share: See `LimitedAllocation`.
        round_to: Groups that lose channels keep a multiple of this number.
    """

    restore: int | None = None
    """Largest number of blocks per group to put back against the ranking."""

    def __init__(
        self, keep_min: int, max_share: float, round_to: int = 1
    ) -> None:
        super().__init__(keep_min, max_share)
        why = ", for example 8 to keep multiples of 8 channels"
        self.round_to = whole(
            round_to, type(self).__name__, "round_to", why=why, exact=True
        )

    def min_channels(self, request: Request) -> np.ndarray:
        min_channels = super().min_channels(request)
        return whole_blocks(min_channels, request.sizes, self.round_to)

    @property
    def limits(self) -> str:
        if self.round_to == 1:
            return super().limits
        return f"round_to={self.round_to}, {super().limits}"

    @property
    def looser(self) -> list[str]:
        blocks = ["round_to=1"] if self.round_to > 1 else []
        return [*blocks, *super().looser]

    @abc.abstractmethod
    def priorities(
        self, request: Request, session: Session | None
    ) -> list[np.ndarray]:
        """Return priorities of shape `(size,)` per group; the lowest is removed first.

        Args:
            request: The request.
            session: The model and its samples, or `None`.
        """

    def solve(self, request: Request, session: Session | None) -> Vectors:
        self.check(request)
        return solve_ranked(
            request,
            self.priorities(request, session),
            self.min_channels(request),
            self.restore,
            self.round_to,
        )

    def ladders(
        self, request: Request, session: Session | None
    ) -> list[Ladder]:
        """Return ladders of minus the logarithm of the kept share of priorities.

        It is multiplied by the number of layers that read the group. The sum over
        all groups is the logarithm of a product of shares: a few channels of a
        narrow group count as much as many of a wide one, and no group is thinned
        out because its layers are costly.
        """
        found = []
        for group, values in zip(
            request.graph.prunable,
            self.priorities(request, session),
            strict=True,
        ):
            order = by_priority(values, request.alive[group.name])
            worth = values[order] - min(0.0, float(values[order].min()))
            # If all are 0, they count as equal instead of as worthless.
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
    min_channels: np.ndarray,
    restore: int | None,
    round_to: int = 1,
) -> Vectors:
    """Run the budget solver on a request. See `remove_blocks_until`."""
    kept = remove_blocks_until(
        round_to,
        priorities,
        [request.alive[name].astype(bool) for name in request.names],
        np.minimum(min_channels, request.alive_counts),
        request.cost_model.evaluate,
        request.budgets(),
        restore,
    )
    return dict(zip(request.names, kept, strict=True))


def within_budget(request: Request) -> bool:
    """Return whether the budgets hold with the alive channels."""
    return fits(
        request.cost_model.evaluate(request.alive_counts), request.budgets()
    )


def require_finite(loss: float) -> float:
    """Return the loss of the model before a search, or raise if it is not finite."""
    if not np.isfinite(loss):
        raise ValueError(
            f"The loss is {loss}. Check the weights and `data` for NaN."
        )
    return loss


def called(part: Any, arguments: Sequence[str]) -> str:
    """Return the constructor call of a part, or nothing without arguments."""
    return f"{type(part).__name__}({', '.join(arguments)})" if arguments else ""


def check_reachable(
    request: Request, min_channels: np.ndarray, limits: str, looser: str
) -> None:
    """Raise if the target cannot be met with the smallest kept counts.

    Args:
        request: The target.
        min_channels: Smallest kept counts, of shape `(groups,)`.
        limits: What sets them, for the message.
        looser: What would allow more, for the message; empty if nothing does.

    Raises:
        ValueError: If the target is out of reach. The message says what can be
            reached, and why.
    """
    costs = request.cost_model.evaluate(min_channels)
    if fits(costs, request.budgets(1.0)):
        return
    full = request.cost_model.full
    most = {key: 1.0 - costs[key] / full[key] for key in request.reduce}
    wanted = ", ".join(f"{g:.1%} of the {k}" for k, g in request.reduce.items())
    reach = ", ".join(f"{r:.1%} of the {k}" for k, r in most.items())
    lower = {
        key: min(target, math.floor(most[key] * 100) / 100)
        for key, target in request.reduce.items()
    }
    ways = [f"Reduce less, for example reduce={lower}"]
    if looser:
        ways.append(f"allow more per group with {looser}")
    if request.graph.coverage.pinned:
        ways.append("unpin channels")
    advice = " or ".join([", ".join(ways[:-1]), ways[-1]] if ways[1:] else ways)
    raise ValueError(
        f"Cannot remove {wanted}: at most {reach} can be removed, with every "
        f"prunable group at the fewest channels that {limits} allow. "
        f"{pinned_reasons(request.graph)} {advice}."
    )


def pinned_reasons(graph: ChannelGraph) -> str:
    """Return a sentence that says which channels are pinned, and why."""
    coverage = graph.coverage
    if not coverage.pinned:
        return "No channel is pinned."
    reasons = "; ".join(f"{n}: {why}" for why, n in coverage.reasons.items())
    return f"{coverage.pinned} of {coverage.total} channels are pinned ({reasons})."


class FunctionAllocation(RankedAllocation):
    """A plain function `f(scores) -> priorities` as an allocation.

    Args:
        function: Function of scores, `{group name: array of shape (size,)}`. It
            returns values in the same form that are comparable across groups.
            Channels with the lowest values are removed first.
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
