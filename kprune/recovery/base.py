"""What a recovery is: it repairs weights on samples, without training."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

from kprune.arguments import whole
from kprune.data.needs import require_data
from kprune.masking.state import State
from kprune.parts import Part
from kprune.recovery._lockstep import Lockstep
from kprune.registry import Registry
from kprune.session import Session


class Recovery(Part, abc.ABC):
    """Repairs what pruning has broken, on unlabelled samples.

    Args:
        samples: How many samples of the data to use at most.
    """

    needs_data = True
    """Whether it runs the model on samples."""

    def __init__(self, samples: int = 1024) -> None:
        owner = type(self).__name__
        self.samples = whole(samples, owner, "samples", of="samples")

    @abc.abstractmethod
    def repair(self, session: Session, before: State) -> None:
        """Change the weights of `session.masked`.

        Args:
            session: The masked model, pruned already, and its samples.
            before: Its weights from before it was pruned.
        """

    def lockstep(self, session: Session, before: State) -> Lockstep:
        """Return the model beside its own past, on the samples."""
        return Lockstep(
            session.masked, before, session.samples.inputs(self.samples)
        )


class FunctionRecovery(Recovery):
    """A plain function as a recovery.

    Args:
        function: `f(session, before)`, see `Recovery.repair`.
    """

    needs_data = False

    def __init__(self, function: Callable[[Session, State], None]) -> None:
        super().__init__()
        self.function = function

    def repair(self, session: Session, before: State) -> None:
        self.function(session, before)


registry = Registry("recovery", Recovery, FunctionRecovery, "recovery")
register = registry.register


def get(identifier: Any) -> Recovery:
    """Return a recovery.

    Args:
        identifier: `"bn"`, `"bias"`, `"reconstruct"`, `"merge"` or another registered
            name, a `Recovery`, or a function `f(session, before)`.

    Raises:
        ValueError: An unknown name; the message lists the known ones.
    """
    recovery: Recovery = registry.get(identifier)
    return recovery


def names() -> list[str]:
    """Return all names that `get` knows."""
    return registry.names


def check(recovery: Any, session: Session) -> None:
    """Raise unless there are the samples that a recovery needs.

    Args:
        recovery: Name, object or function, see `get`.
        session: The masked model and its samples.

    Raises:
        ValueError: An unknown name, or there are no samples.
    """
    recovery = get(recovery)
    if recovery.needs_data:
        require_data(session, f"Recovery {type(recovery).__name__}")


def recover(session: Session, before: State, recovery: Any) -> None:
    """Repair a pruned model without training.

    Args:
        session: The masked model, pruned already, and its samples. Labels are
            not looked at.
        before: Its weights from before it was pruned.
        recovery: Name, object or function, see `get`.

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
        get(recovery).repair(session, before)
