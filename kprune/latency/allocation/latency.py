"""The allocation that meets a measured latency."""

from __future__ import annotations

import logging
import os
from typing import Any

import keras

from kprune import allocation as allocations
from kprune.allocation._ladders import solve_ladders
from kprune.allocation.base import Allocation
from kprune.allocation.base import LimitedAllocation
from kprune.allocation.base import Request
from kprune.allocation.base import Vectors
from kprune.allocation.base import check_reachable
from kprune.allocation.base import register
from kprune.cost.model import CostModel
from kprune.latency.conversion import Conversion
from kprune.latency.model import KEY
from kprune.latency.model import LatencyModel
from kprune.latency.model import TimedCostModel
from kprune.latency.profiling import check_table
from kprune.latency.profiling import profile
from kprune.latency.runtimes.base import get
from kprune.latency.table import LatencyTable
from kprune.latency.table import load
from kprune.latency.whole import Whole
from kprune.session import Session

_log = logging.getLogger("kprune")


@register(KEY)
class Latency(Allocation):
    """Meets `reduce={"latency": share}`: on the edges of measured steps.

    On devices time falls in steps as channels go: between two edges nothing is
    gained, and beyond one a kernel can even get slower. This takes, again and
    again, the width that saves the most predicted time for what is lost, gives
    back every channel that costs no time, and never leaves a kernel slower
    than it was. A runtime that compiles instead of timing, such as an Ethos-U,
    is asked about the whole model too: what it says is what counts.

    Args:
        table: Times of operators: a `kprune.latency.LatencyTable`, or the path
            of its file. By default the table of this machine, which is
            measured when it lacks the model (seconds to minutes).
        allocation: The allocation that says what a channel is worth:
            `"global"`, `"uniform"`, `"similarity"`, `"output_error"`, an object
            or a function.
        dtype: Number format, `"float32"` or `"int8"`. Defaults to the first that
            the runtime has.
        threads: CPU threads. Defaults to 1.
        runtime: What the model will run on, see `kprune.latency.profile`.
            Defaults to `"litert"`. With a `table`, these three may be given if
            they are what the table is of.

    Raises:
        ValueError: An allocation that cannot tell; a table of another setting.

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
        dtype: str | None = None,
        threads: int | None = None,
        runtime: Any = None,
    ) -> None:
        self.table = table
        self.allocation = limited(allocations.get(allocation))
        self.dtype = dtype
        self.threads = threads
        self.runtime = runtime
        if isinstance(table, LatencyTable):
            self._agree(table)

    def costs(self, session: Session) -> CostModel:
        graph = session.graph
        table = self._given_table()
        if table is None:
            table = profile(
                session.masked,
                self.runtime or "litert",
                dtype=self.dtype,
                threads=self.threads or 1,
            )
        whole = self._whole(session.masked, table)
        return TimedCostModel(graph, LatencyModel(graph, table), whole)

    def _whole(self, masked: keras.Model, table: LatencyTable) -> Whole | None:
        """Return what tells the latency of the whole model, if its runtime can.

        A compiler can; whatever has to be timed cannot.
        """
        device = get(table.runtime)
        if device.operators is None:
            return None
        io_dtype = device.io_dtype if table.dtype == "int8" else "float32"
        try:
            conversion = Conversion(masked, table.dtype, io_dtype)
            whole = Whole(
                conversion, lambda file: device.measure(file, 1, 1, 0.0)
            )
            whole(conversion.kept[0])
        except (ImportError, RuntimeError) as error:
            _log.info("Latencies are those of the table alone: %s", error)
            return None
        return whole

    def _given_table(self) -> LatencyTable | None:
        """Return the table that it was made with, read from its file."""
        if self.table is None or isinstance(self.table, LatencyTable):
            return self.table
        table = load(self.table)
        self._agree(table)
        return table

    def _agree(self, table: LatencyTable) -> None:
        runtime = None if self.runtime is None else get(self.runtime).name
        check_table(
            table, runtime=runtime, dtype=self.dtype, threads=self.threads
        )

    def setting(self) -> tuple[str, str]:
        """Return the runtime and the number format that it is of."""
        table = self._given_table()
        if table is None:
            device = get(self.runtime or "litert")
            return device.name, self.dtype or device.dtypes[0]
        return table.runtime, table.dtype

    def check(self, request: Request) -> None:
        check_reachable(
            request,
            self.allocation.min_channels(request),
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
            self.allocation.min_channels(request),
        )


def limited(allocation: Allocation, key: str = KEY) -> LimitedAllocation:
    """Return an allocation that says what channels are worth.

    Args:
        allocation: The user's.
        key: The target, for messages.

    Raises:
        ValueError: It does not say that, or rounds.
    """
    round_to = getattr(allocation, "round_to", 1)
    if round_to != 1:
        raise ValueError(
            f'A target such as reduce={{"{key}": 0.5}} chooses widths by what they '
            "save on the device. Leave `round_to` out of "
            f"{type(allocation).__name__}. Received: round_to={round_to}."
        )
    if isinstance(allocation, LimitedAllocation):
        return allocation
    raise ValueError(
        f'A target such as reduce={{"{key}": 0.5}} needs an allocation that says '
        'what each channel is worth: "global", "uniform", "similarity", '
        '"output_error", or a function f(scores) -> priorities. Received: '
        f"{type(allocation).__name__}."
    )
