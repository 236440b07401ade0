"""Strings to objects: the one way in which kprune resolves its choices.

Each kind of part has a folder, and each part in it a file that bears its name:
`kprune/criteria/l1.py` holds the criterion `"l1"`. A part that needs a higher
room lives there, in a folder of the same name: `kprune/recovery/criteria/`.
Folders, files that begin with `_`, and `base.py` hold no part.
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
"""Folders in whose names of parts `_` stands for `-`."""

_ROOT = Path(__file__).parent


@functools.cache
def modules(folder: str) -> dict[str, str]:
    """Return where the parts of one kind are, without importing them.

    Args:
        folder: The kind's folder: `"criteria"`.

    Returns:
        For each name the module that registers it, in alphabetical order:
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
    """Return the files of folders that hold a part, without their suffix."""
    return [
        module.name
        for module in pkgutil.iter_modules(list(places))
        if not (module.ispkg or module.name.startswith("_"))
        and module.name != "base"
    ]


def class_named(name: str, parts: Iterable[str]) -> Any:
    """Return a class that one of some modules defines; None if there is none.

    The module that is named like the class is imported first: `LossIncrease`
    will be in `loss_increase`.

    Args:
        name: The class.
        parts: Modules.
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
        kind: What is registered, for messages: `"criterion"`.
        base: Class of the registered objects; its instances pass through `get`.
        adapt: Turns a plain function into an instance of `base`.
        folder: Where kprune's own parts of this kind are, see `modules`.
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
        """All names: those of kprune's own parts and registered ones, sorted."""
        return sorted(self._modules.keys() | self._factories.keys())

    def register(self, name: str) -> Callable[[Any], Any]:
        """Return a decorator that registers a class or a plain function.

        Args:
            name: The string that stands for it.

        Returns:
            A decorator that gives its argument back unchanged. It raises
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
        """Return what makes the object of a name: a class, as a rule.

        Args:
            name: A registered name.

        Raises:
            ValueError: An unknown name; the message lists the known ones.
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
            **arguments: For the class that a name stands for.

        Returns:
            An instance of the registry's class.

        Raises:
            ValueError: An unknown name; the message lists the known ones.
            TypeError: Anything else that does not fit.
        """
        if isinstance(identifier, self.base):
            return identifier
        if isinstance(identifier, str):
            return self.factory(identifier)(**arguments)
        if isinstance(identifier, type):
            raise TypeError(
                f"Expected a {self.kind}, received the class "
                f"{identifier.__name__}. Make an object of it: "
                f"{identifier.__name__}(...)."
            )
        if callable(identifier):
            return self._adapt(identifier, **arguments)
        raise TypeError(
            f"Expected a {self.kind}: one of {', '.join(map(repr, self.names))}, "
            f"a {self.base.__name__} object or a function. "
            f"Received: {identifier!r} (of type {type(identifier).__name__})."
        )
