"""Parts: objects with a configuration and a `repr` of their constructor call.

Criteria, allocations, schedules, factors, recoveries, callbacks and recipes are parts:
objects that are fully described by the arguments of their constructor.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Mapping
from typing import Any
from typing import ClassVar
from typing import Self

MOST = 10_000
"""Largest number of elements of an array in a configuration."""

EVIDENCE = ("weights", "activations", "gradients", "loss", "gates")
"""Evidence by which parts choose filters. Gates are learned."""

SHOWN = 6
"""Largest number of elements of an array, list or dictionary that `code` shows."""


class _Recorded:
    """Remembers the arguments of its constructor."""

    _given: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        part = super().__new__(cls)
        # copy() creates an object without arguments, and sets attributes later.
        bound = _signature(cls).bind_partial(*args, **kwargs).arguments
        bound.update(bound.pop(_rest(cls), {}))
        # A dataclass may be frozen.
        object.__setattr__(part, "_given", bound)
        return part


class Part(_Recorded):
    """Base class of objects that their constructor's arguments describe.

    A subclass needs only a constructor.

    Example:

    >>> kprune.allocation.Uniform(round_to=8)
    Uniform(round_to=8)
    >>> kprune.schedules.OneShot(3).get_config()
    {'epoch': 3}
    """

    unsaved: ClassVar[tuple[str, ...]] = ()
    """Arguments that a configuration leaves out, such as samples."""

    def __init__(self) -> None:
        super().__init__()

    @property
    def arguments(self) -> dict[str, Any]:
        """All arguments by name, given ones and defaults."""
        rest = _rest(type(self))
        defaults = {
            name: parameter.default
            for name, parameter in _signature(type(self)).parameters.items()
            if name != rest
        }
        return {**defaults, **self._given}

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as JSON-compatible values.

        Parts become dictionaries, arrays become lists, and functions become their
        names. `unsaved` arguments are left out.

        Raises:
            TypeError: If an argument cannot be serialised, such as a lambda.
        """
        owner = type(self).__name__
        return {
            name: _plain(value, owner, name)
            for name, value in self.arguments.items()
            if name not in self.unsaved
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **unsaved: Any) -> Self:
        """Return a part from its configuration.

        Args:
            config: The result of `get_config`.
            **unsaved: Arguments that the configuration leaves out.
        """
        saved = {name: _restored(value) for name, value in config.items()}
        return cls(**saved, **unsaved)

    def __repr__(self) -> str:
        defaults = _signature(type(self)).parameters
        arguments = ", ".join(
            f"{name}={code(value)}"
            for name, value in self._given.items()
            if name not in defaults or not _same(value, defaults[name].default)
        )
        return f"{type(self).__name__}({arguments})"


class Value(Part):
    """Base class of parts without state, which are equal if their arguments are."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Value) or type(self) is not type(other):
            return NotImplemented
        return self.arguments == other.arguments

    def __hash__(self) -> int:
        return hash((type(self), *self.arguments.items()))


def serialize(part: Part) -> dict[str, Any]:
    """Return a part as JSON-compatible values: its class and its configuration.

    Args:
        part: Any part.

    Returns:
        `{"class": "module:name", "config": {...}}`.

    Raises:
        TypeError: If the part cannot be serialised. The message says why.
    """
    return {
        "class": _path(type(part), type(part).__name__),
        "config": part.get_config(),
    }


def deserialize(config: Mapping[str, Any], **unsaved: Any) -> Any:
    """Return a part from the result of `serialize`.

    Only modules of kprune are imported. Parts and functions of other modules are found
    if these have been imported.

    Args:
        config: The result of `serialize`.
        **unsaved: Arguments that the configuration leaves out.

    Raises:
        ValueError: If a name cannot be found. The message says what to do.
    """
    found = _find(config["class"])
    if not isinstance(found, type) or not issubclass(found, Part):
        raise ValueError(f"{config['class']!r} does not name a part of kprune.")
    return found.from_config(config["config"], **unsaved)


def recorded(value: Any) -> Any:
    """Return an argument as JSON-compatible values.

    Args:
        value: An argument of a part or of a function that takes parts.

    Returns:
        Values that `replayed` turns back into an equal argument, or `{"code": text}`
        for arguments that cannot be serialised, such as a lambda.
    """
    try:
        return _plain(value, "The record", "argument")
    except TypeError:
        return {"code": code(value)}


def replayed(value: Any) -> Any:
    """Return the argument of `recorded`, with lists in place of arrays.

    Raises:
        ValueError: If it was not serialised, or cannot be found.
    """
    if isinstance(value, Mapping) and value.keys() == {"code"}:
        raise ValueError(
            f"{value['code']} was not written down, only its name."
        )
    return _restored(value)


def code(value: Any) -> str:
    """Return readable Python code for a value.

    Long lists and large arrays are abbreviated.

    Args:
        value: An argument of a part, or a part.

    Example:

    >>> code({"epochs": [1, 2], "weights": np.zeros((8, 3))})
    "{'epochs': [1, 2], 'weights': <float64 array (8, 3)>}"
    """
    if isinstance(value, Mapping):
        items = [f"{code(k)}: {code(v)}" for k, v in value.items()]
        return f"{{{_short(items)}}}"
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        items = [code(item) for item in value]
        if isinstance(value, list):
            return f"[{_short(items)}]"
        return f"({_short(items)}{',' if len(items) == 1 else ''})"
    if _is_array(value):
        if value.ndim == 0 or (value.ndim == 1 and value.size <= SHOWN):
            return repr(value.tolist())
        return f"<{value.dtype} array {tuple(value.shape)}>"
    if inspect.isroutine(value) or isinstance(value, type):
        return str(value.__name__)
    text = repr(value)
    plain = value is None or isinstance(value, str | float | int | Part)
    if plain or not ("\n" in text or " at 0x" in text or len(text) > 80):
        return text
    return f"<{type(value).__name__}>"


def _signature(cls: type) -> inspect.Signature:
    # The signature of the class itself would be that of `_Recorded.__new__`.
    function = inspect.signature(cls.__init__)  # type: ignore[misc]
    return function.replace(
        parameters=list(function.parameters.values())[1:],
        return_annotation=inspect.Signature.empty,
    )


def _rest(cls: type) -> str:
    """Return the name of the `**arguments` of a constructor, or ""."""
    for name, parameter in _signature(cls).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            return name
    return ""


def _plain(value: Any, owner: str, argument: str) -> Any:
    """Return a value as JSON-compatible values."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Part):
        return serialize(value)
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            _refuse(value, owner, argument, "its keys are not strings")
        return {k: _plain(v, owner, argument) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, owner, argument) for item in value]
    if _is_array(value):
        if value.size > MOST or value.dtype == object:
            _refuse(value, owner, argument, f"it is too large (over {MOST})")
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if inspect.isfunction(value):
        return {"function": _path(value, f"{owner}({argument}=...)")}
    if hasattr(value, "get_config"):
        import keras

        return {"keras": keras.saving.serialize_keras_object(value)}
    return _refuse(value, owner, argument, "it has no `get_config`")


def _restored(value: Any) -> Any:
    """Return the argument of `_plain`, with lists in place of arrays."""
    if isinstance(value, list):
        return [_restored(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    if value.keys() == {"class", "config"}:
        return deserialize(value)
    if value.keys() == {"function"}:
        return _find(value["function"])
    if value.keys() == {"keras"}:
        import keras

        return keras.saving.deserialize_keras_object(value["keras"])
    return {key: _restored(item) for key, item in value.items()}


def _path(thing: Any, owner: str) -> str:
    """Return `module:name` of a class or function that can be found there."""
    path = f"{thing.__module__}:{thing.__qualname__}"
    try:
        found = _find(path)
    except ValueError:
        found = None
    if found is not thing:
        raise TypeError(
            f"{owner} cannot be written down: {thing.__qualname__} is not found "
            f"by its name in {thing.__module__}. Define it with `def` or `class` "
            "at the top level of a module."
        )
    return path


def _find(path: str) -> Any:
    """Return the class or function at `module:name`."""
    module, _, name = path.partition(":")
    own = __name__.partition(".")[0]
    if module.partition(".")[0] == own:
        importlib.import_module(module)
    if module not in sys.modules:
        raise ValueError(
            f"The configuration names {name!r} of the module {module!r}. Import "
            "that module first."
        )
    found: Any = sys.modules[module]
    for attribute in name.split("."):
        found = getattr(found, attribute, None)
    if found is None:
        raise ValueError(
            f"The configuration names {name!r}, which the module {module!r} does "
            "not have."
        )
    return found


def _refuse(value: Any, owner: str, argument: str, reason: str) -> Any:
    raise TypeError(
        f"{owner} cannot be written down: `{argument}` holds "
        f"{code(value)} (of type {type(value).__name__}), and {reason}."
    )


def _is_array(value: Any) -> bool:
    """Return whether this is a NumPy array or scalar."""
    return all(hasattr(value, name) for name in ("dtype", "ndim", "tolist"))


def _same(value: Any, default: Any) -> bool:
    """Return whether an argument equals its default; False if undecidable."""
    try:
        return value is default or bool(_lists(value) == _lists(default))
    except (TypeError, ValueError):
        return False


def _lists(value: Any) -> Any:
    """Return a value with lists in place of tuples, as after a JSON round trip."""
    if isinstance(value, list | tuple):
        return [_lists(item) for item in value]
    return value


def _short(items: list[str]) -> str:
    if len(items) > SHOWN:
        items = [*items[: SHOWN - 1], "..."]
    return ", ".join(items)
