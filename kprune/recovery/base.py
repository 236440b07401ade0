"""The base class of recoveries, and functions to apply them."""

from __future__ import annotations

import abc
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import ClassVar

from kprune.arguments import whole
from kprune.data.inputs import first_not_finite
from kprune.data.needs import require_data
from kprune.graph.values import read
from kprune.masking.slots import shifting_copies
from kprune.masking.state import WeightSnapshot
from kprune.parts import Part
from kprune.recovery._gates import as_masks
from kprune.recovery._paired import PairedRun
from kprune.registry import Registry
from kprune.session import Session


class Recovery(Part, abc.ABC):
    """Base class of recoveries, which repair a pruned model on unlabelled samples.

    Args:
        samples: Largest number of samples to use.
    """

    needs_data = True
    """Whether it runs the model on samples."""

    merges = False
    """Whether it adds removed filters to others, so that none may be merged before."""

    preceded_by: ClassVar[tuple[str, ...]] = ()
    """Recoveries that run first if they apply, unless this one is part of a list."""

    def __init__(self, samples: int = 1024) -> None:
        owner = type(self).__name__
        self.samples = whole(samples, owner, "samples", of="samples")

    @abc.abstractmethod
    def repair(self, session: Session, before: WeightSnapshot) -> None:
        """Change the weights of `session.masked`.

        Args:
            session: The masked model after pruning, and its samples.
            before: Its weights before pruning.
        """

    def applies(self, session: Session) -> bool:
        """Return whether the recovery can repair anything in a model.

        Args:
            session: The masked model.
        """
        return True

    def paired_run(self, session: Session, before: WeightSnapshot) -> PairedRun:
        """Return a paired run of the model before and after pruning."""
        return PairedRun(
            session.masked, before, session.samples.inputs(self.samples)
        )


class FunctionRecovery(Recovery):
    """A plain function as a recovery.

    Args:
        function: `f(session, before)`. See `Recovery.repair`.
    """

    needs_data = False

    def __init__(
        self, function: Callable[[Session, WeightSnapshot], None]
    ) -> None:
        super().__init__()
        self.function = function

    def repair(self, session: Session, before: WeightSnapshot) -> None:
        self.function(session, before)


class Chain(Recovery):
    """Several recoveries, applied in order.

    Args:
        parts: Names, objects or functions. See `get`. An empty chain repairs
            nothing.
    """

    def __init__(self, parts: Sequence[Any] = ()) -> None:
        super().__init__()
        self.parts = [get(part) for part in parts]
        self.needs_data = any(part.needs_data for part in self.parts)

    def __bool__(self) -> bool:
        return bool(self.parts)

    def repair(self, session: Session, before: WeightSnapshot) -> None:
        for part in self.parts:
            part.repair(session, before)


registry = Registry("recovery", Recovery, FunctionRecovery, "recovery")
register = registry.register


def get(identifier: Any) -> Recovery:
    """Return a recovery.

    Args:
        identifier: `"bn"`, `"bias"`, `"reconstruct"`, `"merge"` or another registered
            name, a `Recovery`, a function `f(session, before)`, or a list of these,
            which are applied in order. An empty list repairs nothing.

    Raises:
        ValueError: If the name is unknown. The message lists the known ones.
    """
    if isinstance(identifier, list | tuple):
        return Chain(identifier)
    recovery: Recovery = registry.get(identifier)
    return recovery


def in_order(*recoveries: Any) -> list[Any]:
    """Return one list of recoveries, each as it would run by itself.

    A recovery in a list runs alone. So those that run before it join the list too,
    unless they are in it; except for lists, which say themselves what runs.

    Args:
        *recoveries: Names, objects, functions or lists. See `get`. `None` is left out.

    Example:

    >>> in_order("bn", "mimic")
    ['bn', 'reconstruct', 'mimic']
    """
    found: list[Any] = []
    for recovery in recoveries:
        if isinstance(recovery, list | tuple):
            found.extend(recovery)
        elif recovery is not None:
            present = [type(get(one)) for one in found]
            first = get(recovery).preceded_by
            found.extend(n for n in first if type(get(n)) not in present)
            found.append(recovery)
    return found


def names() -> list[str]:
    """Return all names that `get` accepts."""
    return registry.names


def check(recovery: Any, session: Session | None) -> None:
    """Raise if a recovery needs samples and there are none.

    Args:
        recovery: Name, object, function or list. See `get`.
        session: The masked model and its samples.

    Raises:
        ValueError: If the name is unknown, or there are no samples.
    """
    chosen = get(recovery)
    for part in chosen.parts if isinstance(chosen, Chain) else [chosen]:
        if part.needs_data:
            require_data(session, f"Recovery {type(part).__name__}")


def repair(
    session: Session,
    before: WeightSnapshot,
    recovery: Any,
    merged: WeightSnapshot | None = None,
) -> None:
    """Repair a pruned model. After an error, it may be partly repaired.

    Args:
        session: See `recover`.
        before: See `recover`.
        recovery: See `recover`.
        merged: If some filters were merged into others and removed: the weights after
            that and before the removal of all others. Recoveries that merge filters
            start from these.
    """
    chosen = get(recovery)
    if not chosen:
        return
    # Moving averages must change too, or they would undo the repair.
    with (
        shifting_copies(session.optimizer),
        as_masks(session, before) as past,
    ):
        run(session, past, chosen, merged)
    session.settle()
    _check_finite(session, chosen)


def run(
    session: Session,
    before: WeightSnapshot,
    recovery: Recovery,
    merged: WeightSnapshot | None = None,
) -> None:
    """Run a recovery, and first those that precede it and apply.

    Args:
        session: See `recover`.
        before: See `recover`.
        recovery: The recovery.
        merged: See `repair`.
    """
    for name in recovery.preceded_by:
        first = get(name)
        if first.applies(session):
            first.repair(session, before)
    for part in recovery.parts if isinstance(recovery, Chain) else [recovery]:
        part.repair(session, merged if merged and part.merges else before)


def _check_finite(session: Session, recovery: Recovery) -> None:
    """Raise if a repair has produced weights that are not finite."""
    for weight in session.masked.weights:
        if first_not_finite(read(weight)) is not None:
            raise ValueError(
                f"After {recovery!r}, weight '{weight.path}' has NaN or infinite "
                "values: the samples or the activations are too large, or training "
                "had diverged before. The model is unchanged."
            )


def recover(session: Session, before: WeightSnapshot, recovery: Any) -> None:
    """Repair a pruned model without labels.

    Args:
        session: The masked model after pruning, and its samples. Labels are not
            used.
        before: Its weights before pruning.
        recovery: Name, object, function or list. See `get`.

    Raises:
        ValueError: If the recovery needs samples and there are none.

    Example:

    ```python
    session = kprune.Session(kprune.wrap(model), x_train[:1024])
    before = session.snapshot()
    session.remove(masks)
    kprune.recovery.recover(session, before, "reconstruct")
    ```
    """
    check(recovery, session)
    with session.rollback():
        repair(session, before, recovery)
