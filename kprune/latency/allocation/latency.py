"""The allocation that meets a measured latency."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from kprune import allocation as allocations
from kprune.allocation._ladders import solve_ladders
from kprune.allocation.base import Allocation
from kprune.allocation.base import LimitedAllocation
from kprune.allocation.base import Request
from kprune.allocation.base import Vectors
from kprune.allocation.base import check_reachable
from kprune.allocation.base import register
from kprune.cost.model import CostModel
from kprune.latency.model import KEY
from kprune.latency.model import LatencyModel
from kprune.latency.model import TimedCostModel
from kprune.latency.profiling import profile
from kprune.latency.table import LatencyTable
from kprune.latency.table import load
from kprune.session import Session


@register(KEY)
class Latency(Allocation):
    """Meets `reduce={"latency": share}`: on the edges of measured steps.

    On devices time falls in steps as channels go: between two edges nothing is
    gained, and beyond one a kernel can even get slower. This takes, again and
    again, the width that saves the most predicted time for what is lost, gives
    back every channel that costs no time, and never leaves a kernel slower
    than it was.

    Args:
        table: Times of operators: a `kprune.latency.LatencyTable`, or the path
            of its file. By default the table of this machine, which is
            measured when it lacks the model (seconds to minutes).
        allocation: The allocation that says what a channel is worth:
            `"global"`, `"uniform"`, `"similarity"`, `"output_error"`, an object
            or a function.
        dtype: Number format of the default table, `"float32"` or `"int8"`.
        threads: CPU threads of the default table.
        runtime: Runtime of the default table, see `kprune.latency.profile`.

    Raises:
        ValueError: An allocation that cannot tell.

    Example:

    ```python
    masked = kprune.prune(
        model,
        reduce={"latency": 0.5},
        allocation=kprune.latency.Latency("phone.json"),
    )
    ```
    """

    def __init__(
        self,
        table: LatencyTable | str | os.PathLike[str] | None = None,
        allocation: Any = "global",
        dtype: str = "float32",
        threads: int = 1,
        runtime: str = "litert",
    ) -> None:
        self.table = table
        self.allocation = _limited(allocations.get(allocation))
        self.dtype = dtype
        self.threads = threads
        self.runtime = runtime

    def costs(self, session: Session) -> CostModel:
        table, graph = self.table, session.graph
        if table is None:
            table = profile(
                session.masked,
                self.runtime,
                dtype=self.dtype,
                threads=self.threads,
            )
        elif not isinstance(table, LatencyTable):
            table = load(table)
        return TimedCostModel(graph, LatencyModel(graph, table))

    def check(self, request: Request) -> None:
        check_reachable(
            request,
            self.allocation.floors(request),
            self.allocation.limits,
        )

    def met(self, request: Request) -> bool:
        return self.allocation.met(request)

    def solve(self, request: Request, session: Session | None) -> Vectors:
        self.check(request)
        if not isinstance(request.cost_model, TimedCostModel):
            raise ValueError(
                "Allocation Latency needs costs that include the latency, as "
                "kprune.prune and the callbacks make them."
            )
        return solve_ladders(
            request,
            self.allocation.ladders(request, session),
            self.allocation.floors(request),
        )


def latency_aware(
    allocation: Allocation, reduce: Mapping[str, float] | None
) -> Allocation:
    """Return an allocation that can meet the targets.

    Args:
        allocation: The user's.
        reduce: The targets; where `"latency"` is among them, the allocation
            is put into a `Latency` with this machine's table.

    Raises:
        ValueError: A latency is wanted, and the allocation cannot tell what a
            channel is worth.
    """
    wanted = isinstance(reduce, Mapping) and KEY in reduce
    if not wanted or isinstance(allocation, Latency):
        return allocation
    return Latency(allocation=allocation)


def _limited(allocation: Allocation) -> LimitedAllocation:
    round_to = getattr(allocation, "round_to", 1)
    if round_to != 1:
        raise ValueError(
            'A target such as reduce={"latency": 0.5} chooses widths by the steps '
            "that were measured. Leave `round_to` out of "
            f"{type(allocation).__name__}. Received: round_to={round_to}."
        )
    if isinstance(allocation, LimitedAllocation):
        return allocation
    raise ValueError(
        'A target such as reduce={"latency": 0.5} needs an allocation that says '
        'what each channel is worth: "global", "uniform", "similarity", '
        '"output_error", or a function f(scores) -> priorities. Received: '
        f"{type(allocation).__name__}."
    )
