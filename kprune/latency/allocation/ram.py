"""The allocation that meets a peak of memory."""

from __future__ import annotations

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
from kprune.arguments import choice
from kprune.cost.model import CostModel
from kprune.latency import runtimes
from kprune.latency.allocation.latency import Latency
from kprune.latency.allocation.latency import limited
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
class Ram(Allocation):
    """Meets `reduce={"ram": share}`: the most memory of activations at any moment.

    The peak belongs to the operator that runs while most is alive, its inputs,
    its output, and whatever waits for a later operator; often to several that
    are equally high, as in the first stage of a ResNet. Channels go from the
    groups that are alive there, from all of them at once, and from no others.

    What counts is the plan of TensorFlow Lite Micro's arena, as
    `kprune.export` reports it for a file with `io_dtype` like `dtype`; with an
    Ethos-U as `runtime` the SRAM that Arm's compiler says. Either is asked about
    the whole model at the widths that seem right.

    Args:
        dtype: Number format of the file, `"int8"` or `"float32"`.
        runtime: `"ethos-u55-128"` or another one that tells its memory, see
            `kprune.latency.profile`. Defaults to TensorFlow Lite Micro.
        allocation: The allocation that says what a channel is worth, see
            `kprune.latency.Latency`; or a `Latency`, for both targets.

    Raises:
        ValueError: An allocation that cannot tell, a runtime that does not tell
            its memory, or a number format that it does not have.

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
        allocation: Any = "global",
    ) -> None:
        self.dtype = choice(dtype, "Ram", "dtype", DTYPES)
        self.runtime = runtime
        self._device = None if runtime is None else runtimes.get(runtime)
        if self._device is not None:
            _check_memory(self._device)
            self._device.check_dtype(dtype)
        found = allocations.get(allocation)
        self.allocation = (
            found if isinstance(found, Latency) else limited(found, KEY)
        )

    @property
    def _worth(self) -> LimitedAllocation:
        """What says what a channel is worth."""
        inner = self.allocation
        return inner.allocation if isinstance(inner, Latency) else inner

    def costs(self, session: Session) -> CostModel:
        base = self.allocation.costs(session)
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

    def check(self, request: Request) -> None:
        worth = self._worth
        check_reachable(request, worth.min_channels(request), worth.limits)

    def met(self, request: Request) -> bool:
        return self._worth.met(request)

    def solve(self, request: Request, session: Session | None) -> Vectors:
        self.check(request)
        if not isinstance(request.cost_model, RamCostModel):
            raise ValueError(
                "Allocation Ram needs costs that include the memory, as "
                "kprune.prune and the callbacks make them."
            )
        if self.met(request):
            return {n: request.alive[n].astype(bool) for n in request.names}
        return solve_ladders(
            request,
            self._worth.ladders(request, session),
            self._worth.min_channels(request),
        )


def device_aware(
    allocation: Allocation, reduce: Mapping[str, float] | None
) -> Allocation:
    """Return an allocation that can meet the targets.

    Args:
        allocation: The user's.
        reduce: The targets; where `"latency"` or `"ram"` is among them, the
            allocation is put into a `Latency`, a `Ram` or both. A memory is
            that of the runtime and number format whose latency is reduced.

    Raises:
        ValueError: Such a target, and the allocation cannot tell what a channel
            is worth.
    """
    wanted = reduce if isinstance(reduce, Mapping) else {}
    ram = allocation if isinstance(allocation, Ram) else None
    inner = allocation if ram is None else ram.allocation
    if LATENCY in wanted and not isinstance(inner, Latency):
        inner = (
            Latency(allocation=inner)
            if ram is None
            else Latency(allocation=inner, dtype=ram.dtype, runtime=ram.runtime)
        )
    if ram is not None:
        same = inner is ram.allocation
        return ram if same else Ram(ram.dtype, ram.runtime, inner)
    if KEY not in wanted:
        return inner
    if not isinstance(inner, Latency):
        return Ram(allocation=inner)
    runtime, dtype = inner.setting()
    tells = runtimes.get(runtime).memory is not None
    return Ram(dtype, runtime if tells else None, inner)


def _check_memory(device: Runtime) -> None:
    if device.memory is None:
        known = [n for n in runtimes.names() if runtimes.get(n).memory]
        raise ValueError(
            f"Runtime {device.name!r} does not tell its memory. Leave `runtime` out "
            "for TensorFlow Lite Micro, or use one of "
            f"{', '.join(map(repr, known))}."
        )
