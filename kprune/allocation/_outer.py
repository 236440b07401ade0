"""Base class of allocations around another one."""

from __future__ import annotations

import abc
import copy
from typing import TYPE_CHECKING
from typing import Any
from typing import Self

from kprune.allocation.base import Allocation
from kprune.allocation.base import Request
from kprune.allocation.global_ import Global
from kprune.cost.model import CostModel

if TYPE_CHECKING:
    from kprune.session import Session


class OuterAllocation(Allocation, abc.ABC):
    """Base class of allocations that use another one.

    Args:
        allocation: The other allocation, which may be an `OuterAllocation` itself, or
            `None` if it is left open.
    """

    def __init__(self, allocation: Allocation | None) -> None:
        self.allocation = allocation

    @property
    def inner(self) -> Allocation | None:
        """The innermost allocation, or `None` if it is left open."""
        inner = self.allocation
        return inner.inner if isinstance(inner, OuterAllocation) else inner

    @property
    def used(self) -> Allocation:
        """The other allocation, `Global` if it is left open."""
        return self.allocation or Global()

    def over(self, allocation: Allocation) -> Self:
        """Return a copy with another innermost allocation."""
        new, inner = copy.copy(self), self.allocation
        if isinstance(inner, OuterAllocation):
            allocation = inner.over(allocation)
        new.allocation = allocation
        return new

    @property
    def needs_loss(self) -> bool:  # type: ignore[override]
        return self.used.needs_loss

    @property
    def needs_data(self) -> bool:  # type: ignore[override]
        return self.used.needs_data

    @property
    def criteria(self) -> tuple[Any, ...]:  # type: ignore[override]
        return self.used.criteria

    def costs(self, session: Session) -> CostModel:
        return self.used.costs(session)

    def check(self, request: Request) -> None:
        self.used.check(request)

    def met(self, request: Request) -> bool:
        return self.used.met(request)
