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
from kprune.graph.likeness import CONSTRUCTION
from kprune.graph.likeness import alteration
from kprune.graph.likeness import computes_like
from kprune.graph.likeness import own_class_works
from kprune.graph.likeness import parent_config
from kprune.graph.reading import reading_of


class Rule(abc.ABC):
    """Base class of rules: how kprune treats one family of layers.

    `trace` is required. `config` is overridden where the constructor must
    change when channels go, `arguments` where the call itself must.

    Attributes:
        linear: Whether an output is, before the activation, a weighted sum of
            what the layer reads, with the weights of its `kernel`, the same at
            every place. The last axis of the kernel counts the outputs.
        batch_norm: Whether the layer has the variables and the arithmetic of
            `keras.layers.BatchNormalization`.
    """

    linear = False
    batch_norm = False

    @abc.abstractmethod
    def trace(self, call: Call) -> Labels | Sequence[Labels]:
        """Return the labels of the outputs, given those of the inputs."""

    def config(self, visit: Visit, kept: Kept) -> dict[str, Any]:
        """Return the constructor configuration of the layer with fewer channels."""
        return configuration(visit.operation)

    def reshapes(self, operation: Any) -> bool:
        """Return whether the configuration depends on the channels that come in.

        If so, all calls of a shared layer must lose the same channels.
        """
        return type(self).config is not Rule.config

    def copied(self, operation: Any) -> dict[str, Any]:
        """Return the constructor configuration of an unchanged copy."""
        return configuration(operation)

    def shrink(self, visit: Visit, kept: Kept) -> Any:
        """Return a new layer or operation for the kept channels, without weights."""
        operation = visit.operation
        config = self.config(visit, kept)
        if isinstance(operation, keras.layers.Layer):
            config = without_arrays(config)
        return from_config(operation, config)

    def arguments(self, visit: Visit, kept: Kept, args: tuple, kwargs: dict):
        """Call arguments for the kept channels: `(args, kwargs)`."""
        return args, kwargs

    def masked_call(
        self, layer: Any, masks: dict, inputs: Any, *args, **kwargs
    ):
        """Compute the layer as if only channels with mask 1 existed.

        Only layers whose output at one channel depends on the others (layer
        normalisation) override it: for all others, masked variables do.
        Called with the layer's variables already masked, in training too, so
        `keras.ops` only.

        Args:
            layer: The layer.
            masks: 1-D tensors of zeros and ones: those of `call.need(name,
                labels)` of which some channel can be removed, by name.
            inputs: First argument of the call.
            *args: Further arguments.
            **kwargs: Further arguments.

        Returns:
            What calling the layer returns.
        """
        return layer(inputs, *args, **kwargs)

    def arrange(self, layer: Any, new: Any) -> None:
        """Adjust a copy once its weights are loaded."""


class CompositeRule(Rule):
    """For layers that do nothing but call other layers and `keras.ops`.

    Such a layer is treated as the functional model that its `call` amounts
    to, and it is one in the wrapped and in the compact model, under the same
    name. It must own no weights beside those of the layers in it, and do the
    same in training apart from what these layers do. Layers of your own that
    have no rule are tried like this by themselves; with the rule, kprune takes
    your word where it cannot try the layer out.

    Example:

    ```python
    kprune.register_rule(MyResidualBlock)(kprune.graph.CompositeRule)
    ```
    """

    def trace(self, call: Call) -> Sequence[Labels]:
        """Pin all channels: the layer turned out not to be such a model."""
        return call.pin_all(
            f"layer '{call.layer.name}' cannot be read as a model of its "
            f"layers: {reading_of(call.layer).cause}"
        )


def from_config(operation: Any, config: dict[str, Any]) -> Any:
    """Return a new object of the operation's class.

    A subclass whose constructor does not take the configuration becomes its
    parent, which computes the same.
    """
    cls = type(operation)
    if cls is keras.layers.Lambda:
        return _lambda(operation, config)
    known = known_class(operation)
    if known is None or cls.__init__ is known.__init__:
        try:
            return cls.from_config(config)
        except Exception as error:  # a class of anybody's
            raise ValueError(
                f"{cls.__name__} '{operation.name}' cannot be made again from "
                "its get_config(). Let it return all arguments of the "
                f"constructor, and no others. {error}"
            ) from error
    new = own_class_works(operation, config, known)
    if new is not None:
        return new
    return known.from_config(parent_config(operation, config, known))


def _lambda(layer: Any, config: dict[str, Any]) -> Any:
    """Return a Lambda of the same function: a file knows functions by name only."""
    given = {
        "function": layer.function,
        "output_shape": layer._output_shape,
        "mask": layer.mask,
        "arguments": layer.arguments,
    }
    return type(layer)(**{**config, **given})


def copy_operation(operation: Any) -> Any:
    """Return a copy of a layer or operation, without weights and nodes."""
    rule = find_rule(operation)
    if rule is None:
        return from_config(operation, configuration(operation))
    return from_config(operation, rule.copied(operation))


def without_arrays(config: dict[str, Any]) -> dict[str, Any]:
    """Replace initializers that hold whole arrays (pretrained weights).

    They fit the old shape only, and the kept weights are loaded anyway.
    """
    new = dict(config)
    for key, value in config.items():
        inner = value.get("config") if isinstance(value, dict) else None
        if not isinstance(inner, dict):
            continue
        if not key.endswith("_initializer"):
            new[key] = {**value, "config": without_arrays(inner)}
        elif any(isinstance(v, dict | list) for v in inner.values()):
            new[key] = "zeros"
    return new


def configuration(operation: Any) -> dict[str, Any]:
    """Return `get_config()`, also for operations that were given NumPy arguments.

    Keras records constructor arguments only if they are plain Python values;
    for others they are read back from the attributes of the same names.
    """
    try:
        return operation.get_config()
    except NotImplementedError:
        given = inspect.signature(type(operation).__init__).parameters.values()
        names = [p.name for p in given if p.kind is not p.VAR_KEYWORD][1:]
        config = {
            n: _plain(getattr(operation, n)) for n in names if n != "name"
        }
        if isinstance(operation, keras.layers.Layer):
            config["dtype"] = operation.dtype_policy.name
            config["trainable"] = operation.trainable
        return {**config, "name": operation.name}


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list | tuple):
        return tuple(_plain(v) for v in value)
    return value


# Rules by class, or by "module:Class" of packages that need not be installed.
_RULES: dict[type | str, Rule] = {}


def register_rule(*classes: type | str) -> Callable[[Any], Any]:
    """Teach the channel graph a layer class.

    Decorates a `kprune.graph.Rule` subclass (it needs no constructor
    arguments), or a plain function `trace(call)`.

    Args:
        *classes: Layer or `keras.Operation` classes, or `"module:Class"` for
            classes that are not to be imported now. Subclasses are covered
            only if they override nothing of theirs: a convolution with
            another constructor or `convolution_op` needs its own rule.

    Returns:
        The decorator.

    Raises:
        TypeError: If something else is given.

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
        named = isinstance(cls, str) and cls.count(":") == 1
        if not named and not isinstance(cls, type):
            raise TypeError(
                "register_rule takes layer or operation classes, as "
                "@kprune.register_rule(MyLayer), or strings like "
                f"'package.module:MyLayer'. Received: {cls!r}"
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


# What a subclass may redefine without computing anything else.
_HARMLESS = {"__module__", "__doc__", "__dict__", "__weakref__", "__qualname__"}
_HARMLESS |= {"__annotations__", "__static_attributes__", "__firstlineno__"}


def _rule_of(cls: type) -> Rule | None:
    """Return the rule registered for this very class."""
    rule = _RULES.get(cls)
    if rule is None:
        rule = _RULES.get(f"{cls.__module__}:{cls.__qualname__}")
    return rule


def find_rule(operation: Any) -> Rule | None:
    """Return the rule of an operation's class, or of a parent it computes like.

    Layers with LoRA weights, and quantised ones, have none.
    """
    rule: Rule | None = class_rule(operation)
    return None if alteration(operation) is not None else rule


def class_rule(operation: Any) -> Any:
    """Return the rule of an operation's class, whatever became of its weights."""
    known = known_class(operation)
    return None if known is None else _rule_of(known)


def known_class(operation: Any) -> Any:
    """Return the class with a rule that an operation computes like, or None."""
    cls = type(operation)
    own: set[str] = set()
    for parent in cls.__mro__:
        if _rule_of(parent) is not None:
            changed = {n for n in own if hasattr(parent, n)}
            if not changed:
                return parent
            like = changed <= CONSTRUCTION and computes_like(operation, parent)
            return parent if like else None
        own |= {n for n in vars(parent) if not _harmless(n)}
    return None


def is_linear(layer: Any) -> bool:
    """Return whether a layer sums what it reads. See `Rule.linear`."""
    rule = find_rule(layer)
    return rule is not None and rule.linear


def is_batch_norm(layer: Any) -> bool:
    """Return whether a layer is a batch normalisation."""
    rule = find_rule(layer)
    return rule is not None and rule.batch_norm


def _harmless(name: str) -> bool:
    return name in _HARMLESS or name.startswith(("_api_export", "_abc_"))
