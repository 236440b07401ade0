"""Rules: how labels pass a layer or operation, and how it shrinks."""

from __future__ import annotations

import abc
import inspect
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kprune.graph.call import Call
from kprune.graph.call import Visit
from kprune.graph.kept import Kept
from kprune.graph.labels import Labels


class Rule(abc.ABC):
    """What kprune must know about one family of layers or operations.

    `trace` is required. `config` is overridden where the constructor must
    change when channels go, `arguments` where the call itself must.
    """

    @abc.abstractmethod
    def trace(self, call: Call) -> Labels | Sequence[Labels]:
        """Labels of the outputs, given those of the inputs."""

    def config(self, visit: Visit, kept: Kept) -> dict[str, Any]:
        """Constructor configuration of the layer with fewer channels."""
        return configuration(visit.operation)

    def shrink(self, visit: Visit, kept: Kept) -> Any:
        """A new layer or operation for the kept channels, without weights."""
        operation = visit.operation
        if isinstance(operation, keras.layers.Layer):
            # A Lambda taken from a model that already runs in this process
            # is no foreign code.
            with _trusted():
                return type(operation).from_config(self.config(visit, kept))
        return type(operation).from_config(self.config(visit, kept))

    def arguments(self, visit: Visit, kept: Kept, args: tuple, kwargs: dict):
        """Call arguments for the kept channels: `(args, kwargs)`."""
        return args, kwargs

    def masked_axis(self, layer: Any) -> tuple[Any, int] | None:
        """`(variable, axis)` whose mask `masked_call` wants, or None.

        Only layers whose output at one channel depends on the others (layer
        normalisation) need it: plain masking of their weights is not exact.
        """
        return None

    def masked_call(self, layer: Any, inputs: Any, mask: Any) -> Any:
        """Computes the layer as if only channels with mask 1 existed.

        Called with the layer's variables already masked, in training too:
        `keras.ops` only. `mask` is a 1-D tensor of zeros and ones.
        """
        raise TypeError(
            f"{type(self).__name__} defines masked_axis() for layer "
            f"'{layer.name}' but no masked_call()."
        )

    def arrange(self, layer: Any, new: Any) -> None:
        """Last adjustments of a copy once its weights are loaded."""


def _trusted():
    from keras.src.saving.serialization_lib import SafeModeScope

    return SafeModeScope(False)


def configuration(operation: Any) -> dict[str, Any]:
    """`get_config()`, also for operations that were given NumPy arguments.

    Keras records constructor arguments only if they are plain Python values;
    for others they are read back from the attributes of the same names.
    """
    try:
        return operation.get_config()
    except NotImplementedError:
        names = list(inspect.signature(type(operation).__init__).parameters)[1:]
        config = {n: _plain(getattr(operation, n)) for n in names if n != "name"}
        return {**config, "name": operation.name}


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list | tuple):
        return tuple(_plain(v) for v in value)
    return value


_RULES: dict[type, Rule] = {}


def register_rule(*classes: type) -> Callable[[Any], Any]:
    """Teaches the channel graph a layer class.

    Decorates a `kprune.graph.Rule` subclass (it needs no constructor
    arguments), or a plain function `trace(call)`.

    Args:
        *classes: Layer or `keras.Operation` classes. Subclasses are covered
            only if they override neither `call` nor `build`.

    Returns:
        The decorator.

    Raises:
        TypeError: If something other than a class is given.

    Example:

    ```python
    @kprune.register_rule(Scale)
    class ScaleRule(kprune.graph.Rule):
        def trace(self, call):
            x = call.input
            call.bind_all([call.layer.scale], call.one_axis(x, -1), "scale")
            return x
    ```
    """
    for cls in classes:
        if not isinstance(cls, type):
            raise TypeError(
                "register_rule takes layer or operation classes, as "
                f"@kprune.register_rule(MyLayer). Received: {cls!r}"
            )

    def decorate(rule: Any) -> Any:
        instance = rule() if isinstance(rule, type) else _FunctionRule(rule)
        for cls in classes:
            _RULES[cls] = instance
        return rule

    return decorate


class _FunctionRule(Rule):
    def __init__(self, trace: Callable[[Call], Any]):
        self._trace = trace

    def trace(self, call: Call):
        return self._trace(call)


def find_rule(operation: Any) -> Rule | None:
    """The rule of an operation's class, or of a parent it computes like."""
    cls = type(operation)
    rule = _RULES.get(cls)
    if rule is not None:
        return rule
    for parent in cls.__mro__[1:]:
        rule = _RULES.get(parent)
        if rule is not None:
            same_call = cls.call is parent.call  # type: ignore[attr-defined]
            same_build = getattr(cls, "build", None) is getattr(parent, "build", None)
            return rule if same_call and same_build else None
    return None
