"""Lazy imports of public names, and lazy registration of saved classes."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.abc
import sys
import types
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from kprune.registry import class_named
from kprune.registry import class_names
from kprune.registry import module_names
from kprune.registry import modules

SAVED = {
    "kprune>FilterMask": "kprune.masking.filter_mask",
    "kprune>DynamicGate": "kprune.masking.dynamic",
    "kprune>GateSource": "kprune.masking.dynamic",
    "kprune>Gate": "kprune.masking.gate",
    "kprune>GatedInput": "kprune.masking.gate",
    "kprune>HierarchicalGroupSparsity": "kprune.regularizers.hierarchical",
    "kprune>Orthonormal": "kprune.regularizers.orthonormal",
}
"""Modules of the classes that saved Keras models may refer to."""


class Package(types.ModuleType):
    """The package `kprune`, whose names are imported on first use.

    The names are those of its stub file, `kprune/__init__.pyi`.
    """

    def __getattr__(self, name: str) -> Any:
        if name == "__all__":  # `from kprune import *`
            return list(self._public)
        path = self._public.get(name)
        if path is None:
            raise AttributeError(
                f"module {self.__name__!r} has no attribute {name!r}"
            )
        module, _, attribute = path.partition(":")
        value = importlib.import_module(module)
        if attribute:
            value = getattr(value, attribute)
        vars(self)[name] = value
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        # Python binds a subpackage on its first import. This must not replace the
        # functions `cost`, `export` and `rebuild`, which have the same names.
        function = ":" in self._public.get(name, "")
        if not (function and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted(["__version__", *self._public])

    @functools.cached_property
    def _public(self) -> dict[str, str]:
        return public_names(self.__name__, Path(self.__path__[0]))


def public_names(package: str, folder: Path) -> dict[str, str]:
    """Return the names that a package's stub file imports.

    Args:
        package: The package's name.
        folder: Its folder.

    Returns:
        Name -> subpackage, or `"module:name"` of the imported object.
    """
    stub = folder / "__init__.pyi"
    tree = ast.parse(stub.read_text("utf-8"))
    found = {}
    for statement in tree.body:
        if not isinstance(statement, ast.ImportFrom):
            continue
        for alias in statement.names:
            separator = "." if statement.module == package else ":"
            path = f"{statement.module}{separator}{alias.name}"
            found[alias.asname or alias.name] = path
    return found


def part_attributes(
    package: str, path: Sequence[str] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` for a package of parts.

    The public classes of its parts become its attributes, each imported on first
    use.

    Args:
        package: The package's name, which ends with the folder of the kind of part.
        path: `__path__` of a package that contains all of its parts. Defaults to the
            folders of `kprune.registry.modules`.
    """
    own = vars(sys.modules[package])

    def parts() -> list[str]:
        if path is None:
            return list(modules(package.rpartition(".")[2]).values())
        return [f"{package}.{name}" for name in module_names(path)]

    def __getattr__(name: str) -> Any:  # noqa: N807
        if name == "__all__":  # `from kprune.callbacks import *`
            return __dir__()
        found = None if name.startswith("_") else class_named(name, parts())
        if found is None:
            raise AttributeError(
                f"module {package!r} has no attribute {name!r}"
            )
        own[name] = found
        return found

    def __dir__() -> list[str]:  # noqa: N807
        return sorted({*_exported(own), *class_names(parts())})

    return __getattr__, __dir__


def public_dir(package: str) -> Callable[[], list[str]]:
    """Return `__dir__` for a package whose `__init__.py` imports what it offers.

    Without it, editors would offer the package's modules too, as soon as they
    are imported.

    Args:
        package: The package's name.
    """
    own = vars(sys.modules[package])

    def __dir__() -> list[str]:  # noqa: N807
        return _exported(own)

    return __dir__


def _exported(own: Mapping[str, Any]) -> list[str]:
    """Return the public names of a package, sorted, without its modules."""
    return sorted(
        name
        for name, value in own.items()
        if not (name.startswith("_") or isinstance(value, types.ModuleType))
    )


class _Saved:
    """Placeholder for a class in Keras' registry until a file needs it.

    Importing the class' module replaces it by the class.
    """

    def __init__(self, module: str, name: str) -> None:
        self._module = module
        self._name = name

    def from_config(self, config: Mapping[str, Any]) -> Any:
        """Return the object; Keras calls this when it loads a file."""
        found = getattr(importlib.import_module(self._module), self._name)
        return found.from_config(config)


def _register() -> None:
    """Register placeholders for the classes of `SAVED` with Keras."""
    known = sys.modules["keras"].saving.get_custom_objects()
    for name, module in SAVED.items():
        known.setdefault(name, _Saved(module, name.partition(">")[2]))


class _KerasFinder(importlib.abc.MetaPathFinder):
    """Finds Keras with the other finders, and registers classes once it is loaded."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: types.ModuleType | None = None,
    ) -> ModuleSpec | None:
        if fullname != "keras":
            return None
        others = [f for f in sys.meta_path if not isinstance(f, _KerasFinder)]
        for finder in others:
            spec = finder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                _run_after(spec.loader, self._loaded)
                return spec
        return None

    def _loaded(self) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        _register()


def _run_after(loader: Any, action: Callable[[], None]) -> None:
    """Make a loader run an action after it has executed a module."""
    execute = loader.exec_module

    def exec_module(module: types.ModuleType) -> None:
        execute(module)
        action()

    loader.exec_module = exec_module


def register_saved() -> None:
    """Make Keras find kprune's layers in files, without importing Keras now.

    Importing Keras takes seconds, which would slow down commands such as
    `kprune --help`.
    """
    if "keras" in sys.modules:
        _register()
    elif not any(isinstance(f, _KerasFinder) for f in sys.meta_path):
        sys.meta_path.insert(0, _KerasFinder())
