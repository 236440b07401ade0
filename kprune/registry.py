"""Registries, which resolve names to objects.

Each kind of part has a folder, in which each part has a file of its name:
`kprune/criteria/l1.py` defines the criterion `"l1"`. A part that needs a higher package
is in a folder of the same name there: `kprune/recovery/criteria/`. Folders, files that
begin with `_`, and `base.py` define no parts.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kprune.arguments import did_you_mean

HYPHENATED = ("recipes",)
"""Folders whose parts have `-` in their names for `_` in the file name."""

_ROOT = Path(__file__).parent


@functools.cache
def modules(folder: str) -> dict[str, str]:
    """Return the modules of the parts of one kind, without importing them.

    Args:
        folder: The kind's folder: `"criteria"`.

    Returns:
        Name -> module that registers it, in alphabetical order:
        `{"l1": "kprune.criteria.l1"}`.
    """
    package = __name__.rpartition(".")[0]
    found = {}
    for place in [_ROOT / folder, *_ROOT.glob(f"*/{folder}")]:
        parent = ".".join([package, *place.relative_to(_ROOT).parts])
        for name in module_names([str(place)]):
            # `global` is a keyword, so its file is `global_.py`.
            part = name.rstrip("_")
            if folder in HYPHENATED:
                part = part.replace("_", "-")
            found[part] = f"{parent}.{name}"
    return dict(sorted(found.items()))


def module_names(places: Iterable[str]) -> list[str]:
    """Return the names of the modules in some folders that define a part."""
    return [
        module.name
        for module in pkgutil.iter_modules(list(places))
        if not (module.ispkg or module.name.startswith("_"))
        and module.name != "base"
    ]


def class_named(name: str, parts: Iterable[str]) -> Any:
    """Return the class of a name that one of some modules defines, or None.

    The module named like the class is imported first, such as `loss_increase` for
    `LossIncrease`.

    Args:
        name: Name of the class.
        parts: Names of modules.
    """
    plain = name.lower()

    def other(module: str) -> bool:
        return module.rpartition(".")[2].replace("_", "") != plain

    for module in sorted(parts, key=other):
        found = vars(importlib.import_module(module)).get(name)
        if isinstance(found, type) and found.__module__ == module:
            return found
    return None


def class_names(parts: Iterable[str]) -> list[str]:
    """Return the public classes that some modules define."""
    return [
        name
        for module in parts
        for name, value in vars(importlib.import_module(module)).items()
        if isinstance(value, type)
        and value.__module__ == module
        and not name.startswith("_")
    ]


class Registry:
    """Named factories of one kind of object.

    Args:
        kind: Kind of the registered objects, for messages: `"criterion"`.
        base: Class of the registered objects; `get` returns its instances unchanged.
        adapt: Turns a plain function into an instance of `base`.
        folder: Folder of kprune's own parts of this kind. See `modules`.
            Defaults to nowhere.

    Example:

    ```python
    @kprune.criteria.register("largest_weight")
    class LargestWeight(kprune.criteria.GroupCriterion):
        def score(self, group):
            kernels = [m.matrix() for m in group.producers if m.name != "bias"]
            return np.abs(np.hstack(kernels)).max(axis=1)
    ```
    """

    def __init__(
        self,
        kind: str,
        base: type,
        adapt: Callable[[Callable[..., Any]], Any],
        folder: str | None = None,
    ) -> None:
        self.kind = kind
        self.base = base
        self._adapt = adapt
        self._modules = {} if folder is None else modules(folder)
        self._own: dict[str, Callable[..., Any]] = {}
        self._factories: dict[str, Callable[..., Any]] = {}

    @property
    def names(self) -> list[str]:
        """Names of kprune's own parts and of registered ones, sorted."""
        return sorted(self._modules.keys() | self._factories.keys())

    def register(self, name: str) -> Callable[[Any], Any]:
        """Return a decorator that registers a class or a plain function.

        Args:
            name: The name to register it under.

        Returns:
            A decorator that returns its argument unchanged. It raises
            `ValueError` if the name is taken.
        """
        if not isinstance(name, str) or not name:
            raise TypeError(
                f"A {self.kind} is registered under a string, for example "
                f'register("my_{self.kind}"). Received: {name!r}.'
            )

        def decorator(thing: Any) -> Any:
            own = self._modules.get(name)
            if name in self._factories or own not in (None, thing.__module__):
                raise ValueError(
                    f"The {self.kind} name {name!r} is taken. Choose another one; "
                    f"taken are: {', '.join(map(repr, self.names))}."
                )
            is_class = isinstance(thing, type) and issubclass(thing, self.base)
            factories = self._factories if own is None else self._own
            factories[name] = (
                thing if is_class else functools.partial(self._adapt, thing)
            )
            return thing

        return decorator

    def factory(self, name: str) -> Callable[..., Any]:
        """Return the factory of a name, usually a class.

        Args:
            name: A registered name.

        Raises:
            ValueError: If the name is unknown. The message lists the known ones.
        """
        if name in self._modules:
            importlib.import_module(self._modules[name])
            return self._own[name]
        if name not in self._factories:
            raise ValueError(
                f"Unknown {self.kind} {name!r}. "
                f"{did_you_mean(name, self.names)}"
            )
        return self._factories[name]

    def get(self, identifier: Any, **arguments: Any) -> Any:
        """Resolve a name, an object or a plain function.

        Args:
            identifier: A registered name, an instance of the registry's class,
                or a function.
            **arguments: Arguments for the class of a name.

        Returns:
            An instance of the registry's class.

        Raises:
            ValueError: If the name is unknown. The message lists the known ones.
            TypeError: If the identifier is of another type.
        """
        if isinstance(identifier, self.base):
            return identifier
        if isinstance(identifier, str):
            return self.factory(identifier)(**arguments)
        if isinstance(identifier, type):
            raise TypeError(
                f"Expected a {self.kind}, received the class "
                f"{identifier.__name__}. Create an instance: "
                f"{identifier.__name__}(...)."
            )
        if callable(identifier):
            return self._adapt(identifier, **arguments)
        raise TypeError(
            f"Expected a {self.kind}: one of {', '.join(map(repr, self.names))}, "
            f"a {self.base.__name__} object or a function. "
            f"Received: {identifier!r} (of type {type(identifier).__name__})."
        )
