"""Display of objects: HTML for notebooks, line styles for plots."""

from __future__ import annotations

import importlib
from typing import Any

COLORS = ("#3f8fd2", "#e07b39", "#3aa57a", "#b870c9", "#c9a227", "#d4607c")
"""Colours that are readable on light and dark backgrounds."""

STYLES = ("-", "--", ":", "-.")
MARKERS = (".", "o", "s", "D", "^", "v", "P", "X")

_CARDS = "kprune.report.cards"


class Displayed:
    """Base class of objects that notebooks show as cards, see `kprune.report.cards`."""

    def _repr_html_(self) -> str | None:
        # Imported here, because its package imports those of the shown classes.
        cards = importlib.import_module(_CARDS)
        try:
            return str(cards.html(self))
        except ImportError:  # Without jinja2 or matplotlib, the text is shown.
            return None


def line(number: int) -> dict[str, Any]:
    """Return Matplotlib arguments for a line, different for up to 192 lines.

    Colours change first, then line styles, then markers.

    Args:
        number: Index of the line, from 0.
    """
    styles = number // len(COLORS)
    return {
        "color": COLORS[number % len(COLORS)],
        "linestyle": STYLES[styles % len(STYLES)],
        "marker": MARKERS[styles // len(STYLES) % len(MARKERS)],
    }
