"""Code blocks of README.md and docs/, run as a reader would run them."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^>]*?) -->\n)?"
    r"^```(?P<language>[a-z]*)\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
BEGINNING = re.compile(r"continues\s+(?:the\s+)?\[[^\]]*\]\(([^)]*\.md)\)")


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: File that it is in.
        line: Its first line of code, from 1.
        language: What follows the fence: `"python"`, `"text"` or nothing.
        code: The lines in it.
        reason: Why it is not run, from a comment in front of the fence.
    """

    page: Path
    line: int
    language: str
    code: str
    reason: str | None = None

    def run(self, place: dict[str, Any]) -> None:
        """Run it; a traceback has the lines of the page."""
        lines = "\n" * (self.line - 1) + self.code
        exec(compile(lines, str(self.page), "exec"), place)


def pages() -> list[Path]:
    """Return all pages, those of the README and the contributor's not."""
    return sorted(DOCS.rglob("*.md"))


def blocks(page: Path, language: str | None = None) -> list[Block]:
    """Return the blocks of a page.

    Args:
        page: A Markdown file.
        language: Only those of it.
    """
    text = page.read_text("utf-8")
    return [
        Block(
            page,
            text.count("\n", 0, found.start("code")) + 1,
            found["language"],
            found["code"],
            found["reason"],
        )
        for found in BLOCK.finditer(text)
        if language in (None, found["language"])
    ]


def beginning(page: Path) -> Path | None:
    """Return the page whose first block a page says that it continues."""
    found = BEGINNING.search(page.read_text("utf-8"))
    return found and (page.parent / found[1]).resolve()


def run(page: Path, **place: Any) -> dict[str, Any]:
    """Run the Python blocks of a page, but for those that say why not.

    Args:
        page: A Markdown file.
        **place: Names that are there already.

    Returns:
        All names that are there in the end.
    """
    for block in blocks(page, "python"):
        if block.reason is None:
            block.run(place)
    return place
