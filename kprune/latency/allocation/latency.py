"""The allocation that meets a measured latency."""

from __future__ import annotations

import logging
import os
from typing import Any

import keras

from kprune import allocation as allocations
from kprune.allocation._ladders import solve_ladders
from kprune.allocation._outer import OuterAllocation
from kprune.allocation.base import Allocation
from kprune.allocation.base import LimitedAllocation
from kprune.allocation.base import Request
from kprune.allocation.base import Vectors
from kprune.allocation.base import register
from kprune.allocation.global_ import Global
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
class Latency(OuterAllocation):
    """Meets `reduce={"latency": share}` with widths at the edges of measured steps.

    On devices, time falls in steps as channels are removed. Between two edges
    nothing is gained, and beyond an edge a kernel can even become slower. This
    allocation repeatedly takes the width that saves the most predicted time for
    what is lost, gives back every channel that costs no time, and never makes a
    kernel slower than it was. If the runtime is a compiler that estimates times,
    such as Vela for an Ethos-U, the target applies to its estimate for the whole
    model.

    Args:
        table: Times of operators: a `kprune.latency.LatencyTable`, or the path of
            its file. Defaults to the table of this machine, which is measured if
            it lacks the model (seconds to minutes).
        allocation: The allocation that decides what a channel is worth:
            `"global"`, `"uniform"`, `"similarity"`, `"output_error"`, an object
            or a function. Defaults to the one that `kprune.prune` would use
            without a device.
        dtype: Number format, `"float32"` or `"int8"`. Defaults to the first that
            the runtime supports.
        threads: Number of CPU threads. Defaults to 1.
        runtime: The runtime of the model. See `kprune.latency.profile`. Defaults
            to `"litert"`. With a `table`, `dtype`, `threads` and `runtime` must
            agree with the table if given.

    Raises:
        ValueError: The allocation cannot tell what a channel is worth, or the
            table has other settings.

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
        allocation: Any = None,
        dtype: str | None = None,
        threads: int | None = None,
        runtime: Any = None,
    ) -> None:
        super().__init__(
            None if allocation is None else limited(allocations.get(allocation))
        )
        self.table = table
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
        """Return the estimator of whole models, if the runtime has one.

        A compiler can estimate whole models; timing each candidate would take too long.
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
            _log.info("Latencies are predicted from the table only: %s", error)
            return None
        return whole

    def _given_table(self) -> LatencyTable | None:
        """Return the table that was given, read from its file if needed."""
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
        """Return the runtime and the number format."""
        table = self._given_table()
        if table is None:
            device = get(self.runtime or "litert")
            return device.name, self.dtype or device.dtypes[0]
        return table.runtime, table.dtype

    def solve(self, request: Request, session: Session | None) -> Vectors:
        self.check(request)
        if not isinstance(request.cost_model, TimedCostModel):
            raise ValueError(
                "Allocation Latency needs costs that include the latency, as "
                "kprune.prune and the callbacks make them."
            )
        return solve_by_worth(self, request, session, KEY)


def solve_by_worth(
    outer: OuterAllocation,
    request: Request,
    session: Session | None,
    key: str,
) -> Vectors:
    """Return masks with the widths that save the most for what is lost.

    Args:
        outer: An allocation around the one that decides what a channel is worth.
        request: The request.
        session: The masked model, if there is one.
        key: The target, for messages.
    """
    worth = limited(outer.inner or Global(), key)
    return solve_ladders(
        request, worth.ladders(request, session), worth.min_channels(request)
    )


def limited(allocation: Allocation, key: str = KEY) -> LimitedAllocation:
    """Check that an allocation can tell what channels are worth, and return it.

    Args:
        allocation: The user's allocation.
        key: The target, for messages.

    Raises:
        ValueError: The allocation cannot tell that, or rounds widths.
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
