"""Requirements of named parts, read from their source without importing Keras."""

from __future__ import annotations

import ast
import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from kprune.commands.samples import Data
from kprune.registry import modules

LABELS = "labels"
SAMPLES = "samples"

_CALLS = {"require_loss": LABELS, "require_data": SAMPLES}
_FLAGS = {"needs_loss": LABELS, "needs_data": SAMPLES}
_WORDS = {
    LABELS: "measures the loss, which needs samples with targets",
    SAMPLES: "runs the model on samples",
}


def check_needs(parts: dict[str, str | None], data: Data) -> None:
    """Raise if a part needs samples that are not given.

    Args:
        parts: Folder -> name of a part, or several names separated by commas.
        data: The data options of the user.

    Raises:
        typer.BadParameter: If `--data` is missing. The message names the part.
        ValueError: If the samples have no targets.
    """
    for kind, given in parts.items():
        for name in (given or "").split(","):
            need = needs(kind, name) if name in modules(kind) else None
            if need is None:
                continue
            text = f"{name!r} {_WORDS[need]}"
            if data.train is None:
                raise typer.BadParameter(
                    f"{text}: give --data.", param_hint="--data"
                )
            if need == LABELS and data.train.unlabelled:
                raise ValueError(
                    f"{text}: {data.train.given!r} has no targets."
                )


@functools.cache
def needs(kind: str, name: str) -> str | None:
    """Return the kind of samples that a part needs.

    Args:
        kind: Folder of the parts, such as `"criteria"`.
        name: Name of the part.

    Returns:
        `"labels"`, `"samples"` or None.
    """
    return _need(_registered(kind, name))


def fewest_epochs(method: str) -> int:
    """Return the minimum number of epochs of a recipe."""
    return _first(_registered("recipes", method), "fewest_epochs") or 1


def runtime_names() -> list[str]:
    """Return the names of all runtimes, including those of variants."""
    found = []
    for name in modules("runtimes"):
        variants = _first(_registered("runtimes", name), "variants") or ()
        found += [name, *(f"{name}-{variant}" for variant in variants)]
    return found


def _registered(kind: str, name: str) -> list[ast.ClassDef]:
    """Return the class of a part and those it derives from; nothing if unknown."""
    module = modules(kind)[name]
    for node in _classes(module).values():
        if any(
            _registers(decorator, name) for decorator in node.decorator_list
        ):
            return list(_ancestry(module, node))
    return []


def _first(ancestry: list[ast.ClassDef], name: str) -> Any:
    """Return the value of a class attribute, or None."""
    values = (_value(node, name) for node in ancestry)
    return next((value for value in values if value is not None), None)


def _need(ancestry: list[ast.ClassDef]) -> str | None:
    for flag, need in _FLAGS.items():
        if _first(ancestry, flag):
            return need
    for node in ancestry:
        check = next(
            (f for f in node.body if getattr(f, "name", "") == "check"), None
        )
        if check is None:
            continue
        called = {
            getattr(call.func, "id", getattr(call.func, "attr", ""))
            for call in ast.walk(check)
            if isinstance(call, ast.Call)
        }
        for function, need in _CALLS.items():
            if function in called:
                return need
        if "super" not in called:
            return None
    return None


def _value(node: ast.ClassDef, name: str) -> Any:
    """Return the constant of a class attribute, or None."""
    for statement in node.body:
        if isinstance(statement, ast.Assign):
            targets = statement.targets
        elif isinstance(statement, ast.AnnAssign):
            targets = [statement.target]
        else:
            continue
        if name in [getattr(target, "id", "") for target in targets]:
            with contextlib.suppress(ValueError, TypeError):
                return ast.literal_eval(statement.value or "None")
    return None


def _registers(decorator: ast.expr, name: str) -> bool:
    return (
        isinstance(decorator, ast.Call)
        and bool(decorator.args)
        and getattr(decorator.args[0], "value", None) == name
    )


def _ancestry(module: str, node: ast.ClassDef) -> Iterator[ast.ClassDef]:
    """Yield a class and those it derives from, within kprune."""
    yield node
    for base in node.bases:
        name = getattr(base, "id", "")
        if name in _classes(module):
            yield from _ancestry(module, _classes(module)[name])
        elif name in _imports(module):
            other = _imports(module)[name]
            if name in _classes(other):
                yield from _ancestry(other, _classes(other)[name])


@functools.cache
def _tree(module: str) -> ast.Module:
    root = Path(__file__).parents[1]
    path = root.joinpath(*module.split(".")[1:])
    file = path.with_suffix(".py")
    text = (file if file.exists() else path / "__init__.py").read_text("utf-8")
    return ast.parse(text)


@functools.cache
def _classes(module: str) -> dict[str, ast.ClassDef]:
    return {
        n.name: n for n in _tree(module).body if isinstance(n, ast.ClassDef)
    }


@functools.cache
def _imports(module: str) -> dict[str, str]:
    """Return imported name -> the kprune module that it comes from."""
    found = {}
    for statement in _tree(module).body:
        source = getattr(statement, "module", None) or ""
        if isinstance(statement, ast.ImportFrom) and source.startswith(
            "kprune."
        ):
            for alias in statement.names:
                found[alias.asname or alias.name] = source
    return found
