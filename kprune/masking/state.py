"""Snapshots of a model's weights."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from kprune.graph.values import read


class WeightSnapshot:
    """A copy of variables, such as all weights and masks of a model.

    Args:
        variables: The variables.

    Example:

    ```python
    before = WeightSnapshot(masked.variables)
    kprune.set_masks(masked, {"conv1": mask})
    with before.of(layer):
        y = layer(x)  # with the old weights
    ```
    """

    def __init__(self, variables: Iterable[Any]) -> None:
        self._values = {
            id(v): (v, keras.ops.convert_to_tensor(read(v).copy()))
            for v in variables
        }

    def of(self, layer: Any) -> contextlib.AbstractContextManager[Any]:
        """Return a scope in which `layer` computes with the copied weights."""
        variables = getattr(layer, "variables", ())
        known = [
            self._values[id(v)] for v in variables if id(v) in self._values
        ]
        return keras.StatelessScope(state_mapping=known)

    @contextlib.contextmanager
    def back_in(self, layer: Any) -> Iterator[bool]:
        """Return a context in which `layer` has the copied weights.

        Unlike `of`, this also holds for compiled functions.

        Yields:
            Whether the layer's weights differ from them.
        """
        changed = []
        for variable in layer.variables:
            if id(variable) in self._values:
                now, then = read(variable), self._values[id(variable)][1]
                if not np.array_equal(now, read(then)):
                    changed.append((variable, now.copy(), then))
        try:
            for variable, _, then in changed:
                # A copy, because JAX gives buffers of variables away.
                variable.assign(read(then).copy())
            yield bool(changed)
        finally:
            for variable, now, _ in changed:
                variable.assign(now)

    def differs(self, layer: Any) -> bool:
        """Return whether the layer's weights differ from the copied values."""
        return any(
            not np.array_equal(read(v), read(self._values[id(v)][1]))
            for v in getattr(layer, "variables", ())
            if id(v) in self._values
        )

    def restore(self) -> None:
        """Assign the copied values to the variables."""
        for variable, value in self._values.values():
            variable.assign(read(value).copy())


@contextlib.contextmanager
def no_gradients() -> Iterator[None]:
    """Return a context in which the backend records nothing for gradients."""
    if keras.config.backend() == "torch":
        with importlib.import_module("torch").no_grad():
            yield
    else:
        yield
