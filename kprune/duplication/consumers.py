"""Consumer rules: how layers read channels that have become copies."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from kprune.arguments import choice
from kprune.arguments import count_or_all
from kprune.arguments import number
from kprune.arguments import whole
from kprune.criteria._similarities import acting_filters
from kprune.data.source import as_source
from kprune.duplication.donors import cosine
from kprune.duplication.statistics import Shifts
from kprune.duplication.statistics import constants
from kprune.duplication.statistics import regress
from kprune.graph.channel_graph import ChannelGraph
from kprune.graph.channel_graph import Group
from kprune.graph.channel_graph import Member
from kprune.parts import Part
from kprune.rebuild.copies import CopyMap
from kprune.rebuild.copies import Edit
from kprune.registry import Registry


@dataclasses.dataclass(frozen=True)
class Replacement:
    """The channels of all groups that become copies of others.

    Args:
        masked: The masked model, not changed yet.
        graph: `kprune.trace(masked)`.
        maps: Copy maps by group name.
        data: A `Source` of samples, or None.
    """

    masked: keras.Model
    graph: ChannelGraph
    maps: dict[str, CopyMap]
    data: Any = None


class ConsumerRule(Part, abc.ABC):
    """Base class of rules for the weights that read copies and donors."""

    equal = False
    """Whether donors and copies are read with equal weights, so they stay equal."""

    @abc.abstractmethod
    def reader(self, replacement: Replacement) -> Edit:
        """Return the edit of the consumers' weights."""

    def shares(self, donors: np.ndarray) -> np.ndarray:
        """Return each channel's share, of shape `(size,)`; by default equal shares."""
        return CopyMap(donors).shares

    def shifts(self, replacement: Replacement) -> Shifts:
        """Return the changes of biases and moving means by `id(variable)`."""
        return {}


class FunctionRule(ConsumerRule):
    """A plain function `f(rows, copy_map) -> rows` as a consumer rule."""

    def __init__(self, function: Callable[..., np.ndarray]) -> None:
        self.function = function

    def reader(self, replacement: Replacement) -> Edit:
        def edit(name: str, member: Member, rows: np.ndarray) -> np.ndarray:
            return self.function(rows, replacement.maps[name])

        return edit


registry = Registry("consumer rule", ConsumerRule, FunctionRule)
register = registry.register
get = registry.get


def _spread(vector: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return a vector over channels, reshaped to broadcast to `rows`."""
    return vector.reshape([-1] + [1] * (rows.ndim - 1))


@register("naive")
class Naive(ConsumerRule):
    """Does not change consumers: they read copies with the old weights.

    The outputs change, so the model needs training.
    """

    def reader(self, replacement: Replacement) -> Edit:
        return lambda name, member, rows: rows


@register("zero")
class Zero(ConsumerRule):
    """Reads copies with weight 0, which gives the outputs of plain pruning."""

    def reader(self, replacement: Replacement) -> Edit:
        def edit(name: str, member: Member, rows: np.ndarray) -> np.ndarray:
            return rows * _spread(~replacement.maps[name].replaced, rows)

        return edit


@register("split")
class Split(ConsumerRule):
    """Splits the donor's weights among the donor and its copies.

    The outputs are those of plain pruning, as in Net2WiderNet (Chen et al.,
    arXiv 1511.05641).

    Args:
        shares: `"equal"` shares, with which copies get equal gradients and stay
            copies, or `"random"` ones from a Dirichlet distribution, with which they
            diverge.
        concentration: Concentration of that distribution; smaller values give less
            equal shares.
        seed: Seed of the draw.
    """

    def __init__(
        self, shares: str = "equal", concentration: float = 5.0, seed: int = 0
    ) -> None:
        owner = type(self).__name__
        choice(shares, owner, "shares", ("equal", "random"))
        self.equal = shares == "equal"
        self.concentration = number(
            concentration, owner, "concentration", above=0
        )
        self.seed = whole(seed, owner, "seed", least=0)

    def shares(self, donors: np.ndarray) -> np.ndarray:
        known = CopyMap(donors)
        if self.equal:
            return known.shares
        # The same for the same donors, however often and in which order it is asked.
        rng = np.random.default_rng([self.seed, *map(int, donors)])
        shares = known.shares.copy()
        for channels in known.sets():
            weights = np.full(channels.size, self.concentration)
            shares[channels] = rng.dirichlet(weights)
        return shares

    def reader(self, replacement: Replacement) -> Edit:
        def edit(name: str, member: Member, rows: np.ndarray) -> np.ndarray:
            known = replacement.maps[name]
            return rows[known.donors] * _spread(known.shares, rows)

        return edit


@register("absorb")
class Absorb(Split):
    """Splits weights like `Split`, after donors have absorbed replaced channels.

    A replaced channel is approximated by `slope * donor + constant`. The slope is
    added to the weights that read the donor, and the constant to the consumer's bias,
    or to the moving mean of the BatchNormalization after it. With samples (`data=`),
    both are least-squares fits to the inputs of each consumer. Without samples, the
    slope is the cosine of the two filters times the ratio of their scales, if the
    cosine exceeds a threshold, and the constant is 0.

    Args:
        data: Samples. Defaults to those given to `kprune.duplicate`.
        threshold: Smallest cosine for a slope above 0, without data.
        steps: Number of batches to use; None for all.
        **kwargs: See `Split`.
    """

    def __init__(
        self,
        data: Any = None,
        threshold: float = 0.5,
        steps: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.data = None if data is None else as_source(data)
        self.threshold = float(threshold)
        self.steps = count_or_all(steps, "Absorb", "steps", "batches")
        self._known: tuple[Any, Any] | None = None

    def reader(self, replacement: Replacement) -> Edit:
        slopes = self._slopes(replacement)

        def edit(name: str, member: Member, rows: np.ndarray) -> np.ndarray:
            known = replacement.maps[name]
            slope = slopes(name, member)[known.replaced]
            taken = rows.astype("float64")
            np.add.at(
                taken,
                known.donors[known.replaced],
                rows[known.replaced] * _spread(slope, rows),
            )
            return taken[known.donors] * _spread(known.shares, rows)

        return edit

    def _slopes(self, replacement: Replacement) -> Callable[..., np.ndarray]:
        """Return a function of group name and consumer that returns all slopes."""
        if self._source(replacement) is not None:
            fits = self._fits(replacement)
            return lambda name, member: fits.slopes(name, member)
        free = {
            name: self._data_free(replacement.graph[name], known)
            for name, known in replacement.maps.items()
        }
        return lambda name, member: free[name]

    def _source(self, replacement: Replacement) -> Any:
        return replacement.data if self.data is None else self.data

    def _data_free(self, group: Group, known: CopyMap) -> np.ndarray:
        every = np.arange(group.size)
        cosines = cosine(group)[every, known.donors]
        _, scales = acting_filters(group)
        donors = scales[known.donors]
        ratio = np.divide(
            scales, donors, out=np.zeros(group.size), where=donors > 0
        )
        return np.where(cosines > self.threshold, cosines * ratio, 0.0)

    def _fits(self, replacement: Replacement) -> Any:
        if self._known is None or self._known[0] is not replacement:
            self._known = (
                replacement,
                regress(
                    replacement.masked,
                    replacement.graph,
                    replacement.maps,
                    self._source(replacement),
                    self.steps,
                ),
            )
        return self._known[1]

    def shifts(self, replacement: Replacement) -> Shifts:
        if self._source(replacement) is None:
            return {}
        return constants(
            replacement.masked,
            replacement.graph,
            replacement.maps,
            self._fits(replacement),
        )
