"""What a recovery is: it repairs weights on samples, without training."""

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
from kprune.masking.state import WeightSnapshot
from kprune.parts import Part
from kprune.recovery._paired import PairedRun
from kprune.registry import Registry
from kprune.session import Session


class Recovery(Part, abc.ABC):
    """Repairs what pruning has broken, on unlabelled samples.

    Args:
        samples: How many samples of the data to use at most.
    """

    needs_data = True
    """Whether it runs the model on samples."""

    preceded_by: ClassVar[tuple[str, ...]] = ()
    """Recoveries that go first, where it is not part of a list and they apply."""

    def __init__(self, samples: int = 1024) -> None:
        owner = type(self).__name__
        self.samples = whole(samples, owner, "samples", of="samples")

    @abc.abstractmethod
    def repair(self, session: Session, before: WeightSnapshot) -> None:
        """Change the weights of `session.masked`.

        Args:
            session: The masked model, pruned already, and its samples.
            before: Its weights from before it was pruned.
        """

    def applies(self, session: Session) -> bool:
        """Return whether there is something that it can repair.

        Args:
            session: The masked model.
        """
        return True

    def paired_run(self, session: Session, before: WeightSnapshot) -> PairedRun:
        """Return the model beside its own past, on the samples."""
        return PairedRun(
            session.masked, before, session.samples.inputs(self.samples)
        )


class FunctionRecovery(Recovery):
    """A plain function as a recovery.

    Args:
        function: `f(session, before)`, see `Recovery.repair`.
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
    """Several recoveries, one after the other.

    Args:
        parts: Names, objects or functions, see `get`. None repairs nothing.
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
            which go one after the other. The empty list repairs nothing.

    Raises:
        ValueError: An unknown name; the message lists the known ones.
    """
    if isinstance(identifier, list | tuple):
        return Chain(identifier)
    recovery: Recovery = registry.get(identifier)
    return recovery


def names() -> list[str]:
    """Return all names that `get` knows."""
    return registry.names


def check(recovery: Any, session: Session | None) -> None:
    """Raise unless there are the samples that a recovery needs.

    Args:
        recovery: Name, object, function or list, see `get`.
        session: The masked model and its samples.

    Raises:
        ValueError: An unknown name, or there are no samples.
    """
    chosen = get(recovery)
    for part in chosen.parts if isinstance(chosen, Chain) else [chosen]:
        if part.needs_data:
            require_data(session, f"Recovery {type(part).__name__}")


def repair(session: Session, before: WeightSnapshot, recovery: Any) -> None:
    """Repair a pruned model; an error may leave it half repaired.

    Args:
        session: See `recover`.
        before: See `recover`.
        recovery: See `recover`.
    """
    chosen = get(recovery)
    if not chosen:
        return
    for name in chosen.preceded_by:
        first = get(name)
        if first.applies(session):
            first.repair(session, before)
    chosen.repair(session, before)
    _check_finite(session, chosen)


def _check_finite(session: Session, recovery: Recovery) -> None:
    """Raise if a repair has left weights that nothing can be computed with."""
    for weight in session.masked.weights:
        if first_not_finite(read(weight)) is not None:
            raise ValueError(
                f"After {recovery!r} weight '{weight.path}' holds NaN or infinite "
                "values: the samples, or what layers make of them, are too large, or "
                "training has diverged before. The model is left as it was."
            )


def recover(session: Session, before: WeightSnapshot, recovery: Any) -> None:
    """Repair a pruned model without training.

    Args:
        session: The masked model, pruned already, and its samples. Labels are
            not looked at.
        before: Its weights from before it was pruned.
        recovery: Name, object, function or list, see `get`.

    Raises:
        ValueError: There are no samples.

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
