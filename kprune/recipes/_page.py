"""Show a recipe as a page of text."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from kprune.parts import code

if TYPE_CHECKING:
    from kprune.recipes.base import Recipe

WIDTH = 80


def page(recipe: Recipe) -> str:
    """Return a page that says what a recipe does, when, with which parts, by whom.

    Args:
        recipe: Any recipe.
    """
    lines = [
        recipe.name,
        *textwrap.wrap(recipe.summary, WIDTH),
        "",
        task(recipe),
    ]
    lines += ["", *_columns(recipe.phases())] if recipe.phases() else []
    if recipe.recover is not None:
        lines += [
            "",
            f"Repairs the remaining layers by {code(recipe.recover)}.",
        ]
    if recipe.parts:
        parts = [(n, code(v)) for n, v in recipe.parts.items()]
        lines += ["", "Parts, each of which can be replaced:", ""]
        lines += _columns(parts)
    if recipe.citation:
        lines += ["", *textwrap.wrap(recipe.citation, WIDTH)]
    if recipe.url:
        lines.append(recipe.url)
    return "\n".join(lines)


def task(recipe: Recipe) -> str:
    """Return a sentence on what a recipe removes, and in how many epochs."""
    costs = {"macs": "MACs", "params": "parameters"}
    shares = [
        f"{100 * share:.3g} % of the {costs.get(key, key)}"
        for key, share in recipe.reduce.items()
    ]
    removes = f"{recipe.saves} {' and '.join(shares)}"
    return (
        f"{removes if shares else recipe.untargeted} in "
        f"{_count(recipe.epochs, 'epoch')}."
    )


def before(epochs: list[int]) -> str:
    """Describe the beginning of epochs, counted from 1.

    Args:
        epochs: Epochs counted from 0, in rising order, at least one.

    Example:

    >>> before([0, 2, 4, 6, 8])
    'before epochs 1, 3, 5, ..., 9'
    """
    first, last = epochs[0] + 1, epochs[-1] + 1
    if len(epochs) == 1:
        return f"before epoch {first}"
    if len(epochs) == last - first + 1 and len(epochs) > 2:
        return f"before epochs {first} to {last}"
    shown = [str(epoch + 1) for epoch in epochs]
    if len(shown) > 5:
        shown = [*shown[:3], "...", shown[-1]]
    return f"before epochs {', '.join(shown)}"


def during(first: int, stop: int) -> str:
    """Describe the epochs of `range(first, stop)`, counted from 1.

    Example:

    >>> during(0, 20), during(29, 30)
    ('epochs 1 to 20', 'epoch 30')
    """
    if stop - first == 1:
        return f"epoch {stop}"
    return f"epochs {first + 1} to {stop}"


def tuning(first: int, epochs: int) -> list[tuple[str, str]]:
    """Return the last phase: fine-tuning from epoch `first` on, if epochs remain."""
    return [(during(first, epochs), "fine-tuning")] if first < epochs else []


def _columns(rows: list[tuple[str, str]]) -> list[str]:
    left = max(len(row[0]) for row in rows)
    lines = []
    for name, text in rows:
        wrapped = textwrap.wrap(text, max(WIDTH - left - 4, 30)) or [""]
        lines.append(f"  {name:<{left}}  {wrapped[0]}")
        lines += [f"  {'':<{left}}  {line}" for line in wrapped[1:]]
    return lines


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
