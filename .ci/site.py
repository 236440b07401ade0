"""What the documentation site adds to the pages in `docs/`: see mkdocs.yml.

Pages of the API come from the lists of public names, and the method pages in the
navigation from the registry, so that a new part appears by itself. Nothing here
imports Keras.
"""

from __future__ import annotations

import ast
import functools
import html
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File
from mkdocs.structure.files import Files

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from kprune.lazy import public_names  # noqa: E402
from kprune.registry import modules  # noqa: E402

PACKAGE = ROOT / "build" / "docs" / "kprune"
"""A copy laid out as the installed package: there, the folder `callbacks/` is
`kprune.callbacks`."""

FURTHER = ("data", "graph", "latency.runtimes", "masking", "parts")
"""Documented packages and modules that `import kprune` does not list."""

SESSION = re.compile(r"(?m)^(( *)>>> .*\n(?:\2(?!\"\"\")\S.*\n)*)")
"""Examples in docstrings that stand for themselves, outside of a fence."""

SHIM = "https://unpkg.com/iframe-worker/shim"
"""What the theme fetches to search in pages that are files on a disk."""

WORKER = """
if (location.protocol === "file:") {
  // Browsers start no worker from a file. A hidden frame runs its script instead.
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.body.appendChild(document.createElement("iframe"));
      this.frame.hidden = true;
      const inside = this.frame.contentWindow;
      inside.postMessage = data =>
        this.dispatchEvent(new MessageEvent("message", { data }));
      const script = inside.document.createElement("script");
      this.loaded = new Promise(resolve => (script.onload = resolve));
      script.src = url;
      inside.document.body.append(script);
    }
    postMessage(data) {
      const inside = this.frame.contentWindow;
      this.loaded.then(() =>
        inside.dispatchEvent(new inside.MessageEvent("message", { data })));
    }
    terminate() {
      this.frame.remove();
    }
  };
}
"""

COPIED = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Pages outside of `docs/`, and their names on the site."""


@functools.cache
def namespaces() -> dict[str, dict[str, str]]:
    """Return the public names of each documented namespace.

    Returns:
        For each namespace its names, and where each is defined:
        `{"kprune.criteria": {"L1": "kprune.criteria.l1.L1"}}`.
    """
    top = public_names("kprune", ROOT / "kprune")
    packages = [name for name, path in top.items() if ":" not in path]
    found = {"kprune": {n: p for n, p in top.items() if ":" in p}}
    for name in sorted([*packages, *FURTHER]):
        found[f"kprune.{name}"] = exported(f"kprune.{name}")
    return {
        namespace: {name: definition(path) for name, path in names.items()}
        for namespace, names in found.items()
    }


def definition(path: str) -> str:
    """Return where a name is defined that packages pass on."""
    module, _, name = path.partition(":")
    if source(module).name == "__init__.py":
        names = exported(module)
        if name in names:
            return definition(names[name])
    return f"{module}.{name}"


@functools.cache
def owners() -> dict[str, str]:
    """Return the page on which each definition is described, once.

    Parts are described among their kind, and all else by the shortest name.
    """
    order = sorted(namespaces(), key=lambda n: (not strings(n), len(n), n))
    found: dict[str, str] = {}
    for namespace in order:
        for name, path in namespaces()[namespace].items():
            found.setdefault(path, f"{namespace}.{name}")
    return found


def strings(namespace: str) -> list[str]:
    """Return the names of parts that stand for a choice."""
    return list(modules(namespace.removeprefix("kprune.")))


def exported(namespace: str) -> dict[str, str]:
    """Return the public names of a package or module, and where they are."""
    path = source(namespace)
    if path.name != "__init__.py":
        return defined(path, namespace)
    stub = path.with_suffix(".pyi")
    tree = ast.parse((stub if stub.is_file() else path).read_text("utf-8"))
    return {
        alias.asname: f"{statement.module}:{alias.name}"
        for statement in tree.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
        if alias.asname and not alias.asname.startswith("_")
    }


def source(namespace: str) -> Path:
    """Return the file of a package or module."""
    if namespace == "kprune.callbacks":
        return ROOT / "callbacks" / "__init__.py"
    path = ROOT / namespace.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def defined(path: Path, namespace: str) -> dict[str, str]:
    """Return the public classes and functions of a module."""
    return {
        node.name: f"{namespace}:{node.name}"
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
        and not node.name.startswith("_")
    }


def lay_out() -> None:
    """Copy the sources, `callbacks/` among them, to where they are documented."""
    shutil.rmtree(PACKAGE, ignore_errors=True)
    # In a stub file, names that a package imports stand for themselves.
    ignored = shutil.ignore_patterns("__pycache__", "*.pyi")
    shutil.copytree(ROOT / "kprune", PACKAGE, ignore=ignored)
    shutil.copytree(ROOT / "callbacks", PACKAGE / "callbacks", ignore=ignored)
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text("utf-8")
        path.write_text(
            SESSION.sub(r"\g<2>```pycon\n\g<1>\g<2>```\n", text), "utf-8"
        )


def reference(namespace: str, names: dict[str, str]) -> str:
    """Return the page of a namespace."""
    lines = [f"# {namespace}", ""]
    tree = ast.parse(source(namespace).read_text("utf-8"))
    lines += [ast.get_docstring(tree) or "", ""]
    if strings(namespace):
        listed = ", ".join(f'`"{name}"`' for name in strings(namespace))
        lines += [f"Names: {listed}.", ""]
    for name, path in sorted(names.items(), key=lambda item: item[0].lower()):
        owner = owners()[path]
        if owner != f"{namespace}.{name}":
            lines += [
                f"## {namespace}.{name}",
                "",
                f"See [`{owner}`][{path}].",
                "",
            ]
            continue
        lines += [
            f"::: {path}",
            "    options:",
            f"      heading: {owner}",
            f"      toc_label: {name}",
            "",
        ]
    return "\n".join(lines)


def on_startup(**_: Any) -> None:
    """Lay out the sources before mkdocstrings looks for them."""
    lay_out()


def on_config(config: Any) -> Any:
    """Put what is there into the navigation, pages that it leaves out last."""
    docs = Path(config.docs_dir)
    config.nav = _present(config.nav, docs)
    there = (path.relative_to(docs).as_posix() for path in docs.rglob("*.md"))
    further = sorted(set(there) - set(_targets(config.nav)))
    if further:
        config.nav.append({"Further": further})
    return config


def _targets(nav: list[Any]) -> Iterator[str]:
    """Yield the pages of a navigation."""
    for entry in nav:
        target = entry
        if isinstance(entry, dict):
            (target,) = entry.values()
        if isinstance(target, list):
            yield from _targets(target)
        else:
            yield target


def _present(nav: list[Any], docs: Path) -> list[Any]:
    """Return a navigation with its patterns filled in, without missing pages."""
    kept: list[Any] = []
    for entry in nav:
        title, target = (
            next(iter(entry.items()))
            if isinstance(entry, dict)
            else (None, entry)
        )
        if isinstance(target, list):
            target = _present(target, docs)
        elif target == "methods/*.md":
            names = modules("recipes")
            target = [f"methods/{name}.md" for name in names]
            target = [t for t in target if (docs / t).is_file()]
        elif target == "api/*.md":
            target = [{n: f"api/{n}.md"} for n in namespaces()]
        elif target not in COPIED.values() and not (docs / target).is_file():
            continue
        kept.append(target if title is None else {title: target})
    return kept


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are not in `docs/`."""
    for namespace, names in namespaces().items():
        page = reference(namespace, names)
        files.append(
            File.generated(config, f"api/{namespace}.md", content=page)
        )
    for source, name in COPIED.items():
        text = (ROOT / source).read_text("utf-8").replace("](docs/", "](")
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Let links to files beside `docs/` lead to their pages on the site."""
    for source, name in COPIED.items():
        markdown = markdown.replace(f"](../{source}", f"]({name}")
    return markdown


def on_page_content(content: str, **_: Any) -> str:
    """Set formulas as MathML, which browsers show without a script."""

    def formula(found: re.Match[str]) -> str:
        display = "block" if found[1] == "div" else "inline"
        text = html.unescape(found[2]).strip()
        return convert(text[2:-2], display=display)

    return re.sub(
        r'(?s)<(span|div) class="arithmatex">(.*?)</\1>', formula, content
    )


def on_post_page(output: str, **_: Any) -> str:
    """Replace the one script that the theme would fetch."""
    return output.replace(
        f'<script src="{SHIM}"></script>', f"<script>{WORKER}</script>"
    )


def on_post_template(output_content: str, **_: Any) -> str:
    """Do the same for pages that are no Markdown, such as 404.html."""
    return on_post_page(output_content)
