"""What a recovery is: it repairs weights on samples, without training."""

from __future__ import annotations

import abc
import numbers
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from kprune.data.source import as_source
from kprune.masking.state import State
from kprune.recovery.lockstep import Lockstep
from kprune.registry import Registry


class Recovery(abc.ABC):
    """Repairs what pruning has broken, on unlabelled samples.

    Args:
        samples: How many samples of the data to use at most.
    """

    needs_data = True
    """Whether it runs the model on samples."""

    def __init__(self, samples: int = 1024) -> None:
        whole = isinstance(samples, numbers.Integral)
        if not whole or isinstance(samples, bool) or samples < 1:
            raise ValueError(
                f"{type(self).__name__} needs a whole number of samples, 1 or "
                f"more. Received: samples={samples!r}."
            )
        self.samples = int(samples)

    @abc.abstractmethod
    def repair(self, lockstep: Lockstep) -> None:
        """Change the weights of `lockstep.masked`.

        Args:
            lockstep: The masked model, and what it was before pruning.
        """


class _Function(Recovery):
    """A plain function `f(lockstep)` as a recovery."""

    def __init__(self, function: Callable[[Lockstep], None]) -> None:
        super().__init__()
        self.function = function

    def repair(self, lockstep: Lockstep) -> None:
        self.function(lockstep)


_registry = Registry("recovery", Recovery, _Function)
register = _registry.register


def get(identifier: Any) -> Recovery:
    """Return a recovery.

    Args:
        identifier: `"bn"`, `"bias"`, `"reconstruct"`, `"merge"` or another registered
            name, a `Recovery`, or a function `f(lockstep)`.

    Raises:
        ValueError: An unknown name; the message lists the known ones.
    """
    recovery: Recovery = _registry.get(identifier)
    return recovery


def names() -> list[str]:
    """Return all names that `get` knows."""
    return _registry.names


def check(recovery: Any, data: Any) -> None:
    """Raise unless there is the data that a recovery needs.

    Args:
        recovery: Name, object or function, see `get`.
        data: Samples, or `None`.

    Raises:
        ValueError: An unknown name, or there are no samples.
    """
    if get(recovery).needs_data and data is None:
        raise ValueError(
            f"recover={recovery!r} runs the model on samples, but there are none. "
            "Pass some hundred of them as `data=`, without labels if you like: "
            "arrays, a tf.data.Dataset, a keras.utils.PyDataset or a generator."
        )


def recover(
    masked: keras.Model, before: State, data: Any, recovery: Any
) -> None:
    """Repair a pruned model without training.

    Args:
        masked: The masked model, pruned already.
        before: Its weights from before it was pruned.
        data: Samples, see `kprune.prune`, or `None` for what needs none. Labels
            are not looked at.
        recovery: Name, object or function, see `get`.

    Raises:
        ValueError: There are no samples.

    Example:

    ```python
    masked = kprune.wrap(model)
    before = kprune.recovery.State(masked)
    kprune.set_masks(masked, masks)
    kprune.recovery.recover(masked, before, x_train[:1024], "reconstruct")
    ```
    """
    check(recovery, data)
    recovery = get(recovery)
    inputs = gather(data, recovery.samples) if recovery.needs_data else None
    recovery.repair(Lockstep(masked, before, inputs))


def gather(data: Any, samples: int) -> Any:
    """Return the inputs of the first `samples` samples as one structure."""
    parts: list[Any] = []
    count = 0
    for x, _, _ in as_source(data).batches():
        parts.append(x)
        count += len(keras.tree.flatten(x)[0])
        if count >= samples:
            break
    return keras.tree.map_structure(
        lambda *arrays: np.concatenate(arrays)[:samples], *parts
    )
