"""Messages that docs/troubleshooting.md quotes are those of the sources."""

from __future__ import annotations

import ast
import re

import pages

QUOTED = [
    b.code for b in pages.blocks(pages.DOCS / "troubleshooting.md", "text")
]
ANY = "\0"


def written(node: ast.AST) -> str:
    """Return a string of the sources, with `ANY` for what is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"%(\.\d)?[a-z]|\{[a-z!]+\}", ANY, node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(written, node.values))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return written(node.left) + written(node.right)
    return ANY


def messages() -> set[str]:
    """Return all strings in kprune/ and callbacks/, on one line each."""
    return {
        " ".join(written(node).split())
        for folder in ("kprune", "callbacks")
        for path in (pages.ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp)
    }


def pattern(quoted: str) -> re.Pattern[str]:
    """Return what a message has to contain, with something filled in for `…`."""
    parts = [re.escape(part) for part in " ".join(quoted.split()).split("…")]
    return re.compile(f"{ANY}+".join(parts))


def test_each_quoted_message_is_in_the_sources():
    found = messages()
    lost = [
        quoted
        for quoted in QUOTED
        if not any(map(pattern(quoted.strip().strip("…")).search, found))
    ]
    assert not lost
    assert len(QUOTED) > 30


def test_a_message_that_is_not_there_is_noticed():
    said = {f"Model '{ANY}' has no channel that can be removed."}
    assert any(map(pattern("'…' has no channel that").search, said))
    assert not any(map(pattern("'…' has no filter that").search, said))
    assert not any(map(pattern("'…' has no … that").search, said))
