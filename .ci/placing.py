"""Writes the table of recipes in docs/methods/README.md.

What can be derived comes from the recipes themselves, and what they cost from
`docs/methods/passes.json`, which `benchmarks/methods/passes.py` measures.
`make format` runs this, a test checks the result.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import kprune  # noqa: E402

PAGE = ROOT / "docs" / "methods" / "README.md"
PASSES = PAGE.with_name("passes.json")
EPOCHS = 30
HEADER = (
    "recipe",
    "filters are chosen by",
    "`data`",
    "passes over it, 8 / 16 filters a layer",
    "passes of a training step",
    f"of {EPOCHS} epochs, fine-tuning",
    "take it when",
)
NEEDS = {"labels": "labelled", "images": "images", "": "not needed"}


def recipe(name: str) -> Any:
    """Return a recipe with its defaults."""
    data = np.zeros((1, 1)), np.zeros(1)
    return kprune.recipe(name, data=data, epochs=EPOCHS)


def lacking(name: str) -> list[str]:
    """Return what a recipe does not say of itself, and how to say it."""
    found = recipe(name)
    missing = []
    if not found.decides_by:
        missing.append(
            "`decides_by` of its criterion or allocation, or `learns`"
        )
    if not found.when:
        missing.append("the attribute `when`")
    return missing


def row(name: str, passes: dict[str, Any]) -> tuple[str, ...]:
    """Return the cells of a recipe."""
    found = recipe(name)
    widths = passes.get(name, {})
    last, what = (found.phases() or [("", "")])[-1]
    return (
        f"[`{name}`]({name}.md)",
        ", ".join(found.decides_by),
        NEEDS[found.needs],
        _cell([_counted(cost) for cost in widths.values()], " / "),
        _cell([_short(cost["training"]) for cost in widths.values()], " / "),
        last.removeprefix("epochs ") if what == "fine-tuning" else "",
        found.when,
    )


def _counted(cost: dict[str, float]) -> str:
    """Return passes in words, those with gradients too."""
    plain, gradients = cost["forward"], cost["gradients"]
    words = [_short(plain)] if plain >= LEAST else []
    if gradients >= LEAST:
        words.append(f"{_short(gradients)} with gradients")
    return " + ".join(words) or "0"


def _short(number: float) -> str:
    """Return a number with three digits that count."""
    return f"{float(f'{number:.3g}'):,g}"


LEAST = 0.1
"""Passes that count; a model is also run on single samples to check a copy."""


def _cell(words: list[str], between: str) -> str:
    """Return values joined, once where they are equal."""
    return between.join(dict.fromkeys(words)) or "not measured"


def page() -> str:
    """Return the page with its table."""
    passes = json.loads(PASSES.read_text("utf-8"))["recipes"]
    names = kprune.recipes.names()
    rows = [HEADER, ("---",) * len(HEADER), *(row(n, passes) for n in names)]
    table = "".join(f"| {' | '.join(cells)} |\n" for cells in rows)
    text = PAGE.read_text("utf-8")
    return re.sub(
        r"(?s)(<!-- table: .ci/placing.py -->\n).*?(<!-- end -->)",
        lambda found: found[1] + table + found[2],
        text,
    )


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
