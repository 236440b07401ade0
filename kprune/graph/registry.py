"""Rules: how labels pass through layers and operations, and how these shrink."""

from __future__ import annotations

import abc
import inspect
import tempfile
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
from kprune.graph.likeness import is_own
from kprune.graph.likeness import own_class_works
from kprune.graph.likeness import parent_config
from kprune.graph.live import made_from
from kprune.graph.live import without_nodes
from kprune.graph.reading import reading_of


class Rule(abc.ABC):
    """Base class of rules, which define how kprune treats a family of layers.

    `trace` is required. Override `config` if constructor arguments depend on
    the number of channels, and `arguments` if call arguments do.

    Attributes:
        linear: Whether an output, before the activation, is a weighted sum of
            the inputs with the weights of `kernel`, the same at every position.
            The last axis of the kernel is the output axis.
        batch_norm: Whether the layer has the variables and the arithmetic of
            `keras.layers.BatchNormalization`.
        product: Whether the output is the product of the inputs, element by
            element.
    """

    linear = False
    batch_norm = False
    product = False

    @abc.abstractmethod
    def trace(self, call: Call) -> Labels | Sequence[Labels]:
        """Return the labels of the outputs, given those of the inputs."""

    def config(self, visit: Visit, kept: Kept) -> dict[str, Any]:
        """Return the constructor configuration for the kept channels."""
        return configuration(visit.operation)

    def reshapes(self, operation: Any) -> bool:
        """Return whether the configuration depends on the input channels.

        If so, the same channels must be removed at all calls of a shared layer.
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

    def arguments(
        self,
        visit: Visit,
        kept: Kept,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the call arguments for the kept channels: `(args, kwargs)`."""
        return args, kwargs

    def masked_call(
        self,
        layer: Any,
        masks: dict[str, Any],
        inputs: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Compute the layer as if only channels with mask 1 existed.

        Override this only for layers whose output at one channel depends on
        other channels, such as layer normalisation; for all others masked
        variables are enough. The layer's variables are masked already. This
        runs in training too: use `keras.ops` only.

        Args:
            layer: The layer.
            masks: Name -> 1-D tensor of zeros and ones, for every
                `call.need(name, labels)` with removable channels.
            inputs: First argument of the call.
            *args: Further arguments.
            **kwargs: Further arguments.

        Returns:
            What calling the layer returns.
        """
        return layer(inputs, *args, **kwargs)

    def grouped(self, layer: Any, kernel: Any) -> tuple[Any, int]:
        """Return a kernel in the layout of a convolution with groups.

        This runs in training too: use `keras.ops` only.

        Args:
            layer: The layer.
            kernel: Its kernel, or a tensor of the same shape.

        Returns:
            Tensor of shape `(..., inputs per group, outputs)`, in which the outputs of
            a group are adjacent; and the number of groups.
        """
        return kernel, 1

    def arrange(self, layer: Any, new: Any) -> None:
        """Adjust a copy after its weights are set.

        Args:
            layer: The original layer.
            new: The copy.
        """


class CompositeRule(Rule):
    """Rule for layers that only call other layers and `keras.ops`.

    Such a layer is treated as the functional model its `call` defines. In the
    wrapped and the compact model it is replaced by that model, under the same
    name. It must own no weights except those of its sublayers, and must call
    them in the same way in training and inference. kprune tries this on your own
    layers without a rule, and compares the results; with this rule, it
    trusts you where it cannot compare.

    Example:

    ```python
    kprune.register_rule(MyResidualBlock)(kprune.graph.CompositeRule)
    ```
    """

    def trace(self, call: Call) -> Sequence[Labels]:
        """Pin all channels, because the layer could not be read as a model."""
        return call.pin_all(
            f"layer '{call.layer.name}' cannot be read as a model of its "
            f"layers: {reading_of(call.layer).cause}"
        )


def from_config(operation: Any, config: dict[str, Any]) -> Any:
    """Return a new object of the operation's class.

    If a subclass' constructor does not take the configuration, the result is of
    the parent class that computes the same.
    """
    new = _made(operation, config)
    if hasattr(operation, "save_assets"):
        _copy_assets(operation, new)
    return new


def _made(operation: Any, config: dict[str, Any]) -> Any:
    cls = type(operation)
    if cls is keras.layers.Lambda:
        return _lambda(operation, config)
    known = known_class(operation)
    if known is None or cls.__init__ is known.__init__:
        try:
            return cls.from_config(config)
        except Exception as error:  # User code may raise anything.
            way_out = (
                "Make get_config() return all arguments of the constructor, "
                "and no others."
                if is_own(operation)
                else "Decorate the functions and classes given to it with "
                "@keras.saving.register_keras_serializable()."
            )
            raise ValueError(
                f"{cls.__name__} '{operation.name}' cannot be recreated from "
                f"its get_config(). {way_out} {error}"
            ) from error
    new = own_class_works(operation, config, known)
    if new is not None:
        return new
    return known.from_config(parent_config(operation, config, known))


_LOOKUPS = (
    keras.layers.StringLookup,
    keras.layers.IntegerLookup,
    keras.layers.TextVectorization,
)


def _copy_assets(layer: Any, new: Any) -> None:
    """Copy what a layer keeps in files of its own, such as an adapted vocabulary."""
    if any(type(layer).save_assets is c.save_assets for c in _LOOKUPS):
        _copy_vocabulary(layer, new)
        return
    try:
        if not layer.variables:  # Those of Keras are copied by kprune.
            store: dict[str, Any] = {}
            layer.save_own_variables(store)
            new.load_own_variables(store)
        with tempfile.TemporaryDirectory() as folder:
            layer.save_assets(folder)
            new.load_assets(folder)
    except Exception as error:  # User code may raise anything.
        raise ValueError(
            f"{type(layer).__name__} '{layer.name}' cannot be copied by its "
            "save_assets() and load_assets(). Make load_assets() of a new layer "
            "read what save_assets() writes, also before the layer is adapted. "
            f"{error}"
        ) from error


def _copy_vocabulary(layer: Any, new: Any) -> None:
    """Copy the vocabulary of a lookup layer of Keras, if it has one.

    Not through its files: they hold one term per line, and terms may hold line
    ends; a file without terms cannot be loaded.
    """
    if not layer.get_vocabulary(include_special_tokens=False):
        return
    terms = layer.get_vocabulary()
    store: dict[str, Any] = {}
    layer.save_own_variables(store)
    weights = store.get("idf_weights")
    if weights is not None:  # May be padded to the largest vocabulary.
        weights = weights[: len(terms)]
    new.set_vocabulary(terms, weights)


def _lambda(layer: Any, config: dict[str, Any]) -> Any:
    """Return a Lambda of the same function, which a configuration only names."""
    given = {
        "function": layer.function,
        "output_shape": layer._output_shape,
        "mask": layer.mask,
        "arguments": layer.arguments,
    }
    return type(layer)(**{**config, **given})


def copy_operation(operation: Any) -> Any:
    """Return an unbuilt copy of a layer or operation, without nodes."""
    rule = find_rule(operation)
    if rule is None and not isinstance(operation, keras.layers.Layer):
        return without_nodes(operation)

    def make() -> Any:
        if rule is None:
            return from_config(operation, configuration(operation))
        return from_config(operation, rule.copied(operation))

    return made_from(operation, make)


def without_arrays(config: dict[str, Any]) -> dict[str, Any]:
    """Replace initializers that hold whole arrays (pretrained weights).

    The arrays have the old shape, and the kept weights are assigned anyway.
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
    """Return `get_config()`, even of operations constructed with NumPy values.

    Keras records constructor arguments only if they are plain Python values.
    Otherwise they are read from the attributes of the same names.
    """
    try:
        return operation.get_config()
    except TypeError as error:  # Keras does not say of which layer it speaks.
        raise ValueError(
            f"{type(operation).__name__} '{operation.name}' has no "
            f"configuration, so it cannot be recreated. {error}"
        ) from error
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


# Keyed by class, or by "module:Class" for packages that may not be installed.
_RULES: dict[type | str, Rule] = {}


def register_rule(*classes: type | str) -> Callable[[Any], Any]:
    """Register a rule for a layer class.

    Decorates a `kprune.graph.Rule` subclass, whose constructor takes no
    arguments, or a plain function `trace(call)`.

    Args:
        *classes: Layer or `keras.Operation` classes, or `"module:Class"` for
            classes that should not be imported now. Subclasses are covered
            only if they do not change what the layer computes: a convolution
            that overrides `convolution_op` needs its own rule.

    Returns:
        The decorator.

    Raises:
        TypeError: If an argument is neither a class nor such a string.

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
    def __init__(self, trace: Callable[[Call], Any]) -> None:
        self._trace = trace

    def trace(self, call: Call) -> Any:
        return self._trace(call)


# Attributes a subclass may redefine without changing what it computes.
_HARMLESS = {"__module__", "__doc__", "__dict__", "__weakref__", "__qualname__"}
_HARMLESS |= {"__annotations__", "__static_attributes__", "__firstlineno__"}


def _rule_of(cls: type) -> Rule | None:
    """Return the rule registered for exactly this class."""
    rule = _RULES.get(cls)
    if rule is None:
        rule = _RULES.get(f"{cls.__module__}:{cls.__qualname__}")
    return rule


def find_rule(operation: Any) -> Rule | None:
    """Return the rule of an operation's class or of an equivalent parent class.

    Layers with LoRA weights and quantised layers have none.
    """
    rule: Rule | None = class_rule(operation)
    return None if alteration(operation) is not None else rule


def class_rule(operation: Any) -> Any:
    """Return the rule of an operation's class, even if its weights were altered."""
    known = known_class(operation)
    return None if known is None else _rule_of(known)


def known_class(operation: Any) -> Any:
    """Return the class with a rule whose computation the operation shares, or None."""
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
    """Return whether a layer is linear in its inputs. See `Rule.linear`."""
    rule = find_rule(layer)
    return rule is not None and rule.linear


def grouped_kernel(layer: Any, kernel: Any) -> tuple[Any, int]:
    """Return a layer's kernel in one layout, and its number of groups.

    See `Rule.grouped`.
    """
    rule = find_rule(layer)
    return (kernel, 1) if rule is None else rule.grouped(layer, kernel)


def is_batch_norm(layer: Any) -> bool:
    """Return whether a layer is a batch normalisation."""
    rule = find_rule(layer)
    return rule is not None and rule.batch_norm


def batch_norm_of(layer: Any) -> Any:
    """Return the batch normalisation that a layer is or repeats over time, or None."""
    if isinstance(layer, keras.layers.TimeDistributed):
        layer = layer.layer
    return layer if is_batch_norm(layer) else None


def _harmless(name: str) -> bool:
    return name in _HARMLESS or name.startswith(("_api_export", "_abc_"))
