"""Turn functions that return callbacks into recipes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any


class Adapted:
    """Mixin for recipes whose callbacks come from a function.

    The parts of the recipe are the function's arguments after the first three.
    """

    name: str
    reduce: dict[str, float]
    data: Any
    epochs: int
    recover: Any
    parts: dict[str, Any]
    function: Callable[..., list[Any]]

    fewest_epochs = 1

    @property
    def defaults(self) -> Mapping[str, Any]:
        arguments = list(inspect.signature(self.function).parameters.values())
        return {argument.name: argument.default for argument in arguments[3:]}

    def actions(self) -> list[Any]:
        parts = dict(self.parts)
        if self.recover is not None:
            if "recover" not in parts:
                raise ValueError(
                    f"Recipe '{self.name}' is a function without an argument "
                    "`recover`. Add one, and pass it to the callbacks."
                )
            parts["recover"] = self.recover
        return self.function(
            self.reduce or None, self.data, self.epochs, **parts
        )


def class_of(
    function: Callable[..., list[Any]], name: str, base: type
) -> type[Any]:
    """Return a recipe class whose callbacks come from a function.

    Args:
        function: `f(reduce, data, epochs, **parts) -> callbacks`. The first line
            of its docstring is the summary.
        name: Name that the recipe is registered under.
        base: `kprune.recipes.Recipe`.
    """
    lines = (inspect.getdoc(function) or "").splitlines()
    content = {
        "function": staticmethod(function),
        "name": name,
        "summary": lines[0] if lines else "",
    }
    return type(name, (Adapted, base), content)
