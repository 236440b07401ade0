"""The allocation that meets a target for peak memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kprune import allocation as allocations
from kprune.allocation._outer import OuterAllocation
from kprune.allocation.base import Allocation
from kprune.allocation.base import Request
from kprune.allocation.base import Vectors
from kprune.allocation.base import register
from kprune.arguments import choice
from kprune.cost.model import CostModel
from kprune.latency import runtimes
from kprune.latency.allocation.latency import Latency
from kprune.latency.allocation.latency import limited
from kprune.latency.allocation.latency import solve_by_worth
from kprune.latency.conversion import Conversion
from kprune.latency.memory import KEY
from kprune.latency.memory import Memory
from kprune.latency.memory import RamCostModel
from kprune.latency.model import KEY as LATENCY
from kprune.latency.model import TimedCostModel
from kprune.latency.runtimes.base import Runtime
from kprune.latency.table import DTYPES
from kprune.session import Session


@register(KEY)
class Ram(OuterAllocation):
    """Meets `reduce={"ram": share}`, a target for the peak memory of activations.

    The peak occurs while an operator runs whose inputs and output, and all tensors
    that wait for a later operator, take the most memory. Several operators may
    share the peak, as in the first stage of a ResNet. Channels are removed from all
    groups that are alive in these operators at once, and from no others.

    The peak is that of a plan of TensorFlow Lite Micro's arena, as `kprune.export`
    reports it for a file whose `io_dtype` is `dtype`. With an Ethos-U as `runtime`,
    it is the SRAM that Arm's compiler reports. Either is computed for the whole
    model at the most promising widths.

    Args:
        dtype: Number format of the file, `"int8"` or `"float32"`.
        runtime: `"ethos-u55-128"` or another runtime that reports its memory. See
            `kprune.latency.profile`. Defaults to TensorFlow Lite Micro.
        allocation: The allocation that decides what a channel is worth. See
            `kprune.latency.Latency`, also for the default. Or a `Latency`, for
            both targets.

    Raises:
        ValueError: The allocation cannot tell what a channel is worth, or the
            runtime does not report its memory or support the number format.

    Example:

    ```python
    masked = kprune.prune(
        model,
        reduce={"ram": 0.4},
        allocation=kprune.allocation.Ram(runtime="ethos-u55-128"),
    )
    ```
    """

    def __init__(
        self,
        dtype: str = "int8",
        runtime: Any = None,
        allocation: Any = None,
    ) -> None:
        self.dtype = choice(dtype, "Ram", "dtype", DTYPES)
        self.runtime = runtime
        self._device = None if runtime is None else runtimes.get(runtime)
        if self._device is not None:
            _check_memory(self._device)
            self._device.check_dtype(dtype)
        found = None if allocation is None else allocations.get(allocation)
        if not (found is None or isinstance(found, Latency)):
            found = limited(found, KEY)
        super().__init__(found)

    def costs(self, session: Session) -> CostModel:
        base = self.used.costs(session)
        dtypes = self.dtype, self.dtype
        known = [base.whole] if isinstance(base, TimedCostModel) else []
        conversion = next(
            (
                w.conversion
                for w in known
                if w and w.conversion.dtypes == dtypes
            ),
            None,
        ) or Conversion(session.masked, *dtypes)
        memory = Memory(conversion, self._device)
        return RamCostModel(session.graph, memory, base)

    def solve(self, request: Request, session: Session | None) -> Vectors:
        self.check(request)
        if not isinstance(request.cost_model, RamCostModel):
            raise ValueError(
                "Allocation Ram needs costs that include the memory, as "
                "kprune.prune and the callbacks make them."
            )
        if self.met(request):
            return {n: request.alive[n].astype(bool) for n in request.names}
        return solve_by_worth(self, request, session, KEY)


def device_aware(
    allocation: Allocation, reduce: Mapping[str, float] | None
) -> Allocation:
    """Return an allocation that can meet targets of a device.

    Args:
        allocation: The user's allocation.
        reduce: The targets. For `"latency"` and `"ram"`, the allocation is wrapped
            in a `Latency`, a `Ram` or both. The memory is that of the runtime and
            number format whose latency is reduced.

    Raises:
        ValueError: There is such a target, and the allocation cannot tell what a
            channel is worth.
    """
    wanted = reduce if isinstance(reduce, Mapping) else {}
    if isinstance(allocation, Ram):
        inner, dtype, runtime = (
            allocation.allocation,
            allocation.dtype,
            allocation.runtime,
        )
        if LATENCY not in wanted or isinstance(inner, Latency):
            return allocation
        latency = Latency(allocation=inner, dtype=dtype, runtime=runtime)
        return Ram(dtype, runtime, latency)
    if LATENCY in wanted and not isinstance(allocation, Latency):
        allocation = Latency(allocation=allocation)
    if KEY not in wanted:
        return allocation
    if not isinstance(allocation, Latency):
        return Ram(allocation=allocation)
    runtime, dtype = allocation.setting()
    has_memory = runtimes.get(runtime).memory is not None
    return Ram(dtype, runtime if has_memory else None, allocation)


def _check_memory(device: Runtime) -> None:
    if device.memory is None:
        known = [n for n in runtimes.names() if runtimes.get(n).memory]
        raise ValueError(
            f"Runtime {device.name!r} does not report its memory. Leave `runtime` out "
            "for TensorFlow Lite Micro, or use one of "
            f"{', '.join(map(repr, known))}."
        )
