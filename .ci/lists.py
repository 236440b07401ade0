"""Writes the lists of parts: stub files, and the table of README.md.

Parts are found when the program runs, so that adding one takes one file. Editors,
type checkers and readers need lists. `make format` runs this, `make lint` checks
the result.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from kprune.registry import module_names  # noqa: E402
from kprune.registry import modules  # noqa: E402

HEADER = "# Written by `make format`.\n\n"
KINDS = (
    "allocation",
    "criteria",
    "factors",
    "recipes",
    "recovery",
    "schedules",
)


def exported(path: Path) -> list[str]:
    """Return the imports of an `__init__.py` that export a name."""
    tree = ast.parse(path.read_text("utf-8"))
    return [
        ast.unparse(statement)
        for statement in tree.body
        if isinstance(statement, ast.ImportFrom)
        and all(
            alias.asname and not alias.asname.startswith("_")
            for alias in statement.names
        )
    ]


def classes(path: Path, module: str) -> list[str]:
    """Return imports of the public classes that a file defines."""
    tree = ast.parse(path.read_text("utf-8"))
    names = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    return [
        f"from {module} import {name} as {name}"
        for name in names
        if not name.startswith("_")
    ]


def stubs() -> dict[Path, str]:
    """Return the content of all stub files."""
    found = {}
    for kind in KINDS:
        lines = exported(ROOT / "kprune" / kind / "__init__.py")
        for module in modules(kind).values():
            path = ROOT / f"{module.replace('.', '/')}.py"
            lines += classes(path, module)
        found[ROOT / "kprune" / kind / "__init__.pyi"] = sorted(set(lines))
    folder = ROOT / "callbacks"
    lines = exported(folder / "__init__.py")
    for name in module_names([str(folder)]):
        lines += classes(folder / f"{name}.py", f"kprune.callbacks.{name}")
    found[folder / "__init__.pyi"] = sorted(set(lines))
    # An editable install maps the folder to `kprune.callbacks` when the program
    # runs. Editors look beside the other modules, and then into the folder.
    found[ROOT / "kprune" / "callbacks.pyi"] = sorted(
        line.replace("from kprune.callbacks.", "from ..callbacks.")
        for line in set(lines)
    )
    return {
        path: HEADER + "\n".join(lines) + "\n" for path, lines in found.items()
    }


ROWS = {
    "criterion=": "criteria",
    "allocation=": "allocation",
    "schedule=": "schedules",
    "recover=": "recovery",
}
"""Rows of the table in README.md, with the kind of part that each lists."""


def readme() -> str:
    """Return README.md with all parts in its table."""
    text = (ROOT / "README.md").read_text("utf-8")
    for label, kind in ROWS.items():
        names = [f"`{name}`" for name in modules(kind)]
        if kind == "allocation":
            names.append("`{group name: share}`")
        row = rf"(?m)^(\| `{label}`[^|]*\| )[^|]*( \|)"
        text = re.sub(row, rf"\g<1>{', '.join(names)}\2", text)
    return text


def main() -> None:
    """Write the files, or with --check say which are out of date."""
    old = {
        path: text
        for path, text in {**stubs(), ROOT / "README.md": readme()}.items()
        if not path.is_file() or path.read_text("utf-8") != text
    }
    if "--check" in sys.argv:
        names = ", ".join(str(path.relative_to(ROOT)) for path in old)
        sys.exit(f"Out of date, run `make format`: {names}" if old else 0)
    for path, text in old.items():
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
