"""How objects are shown: as HTML by notebooks, as lines by plots."""

from __future__ import annotations

import importlib
from typing import Any

COLORS = ("#3f8fd2", "#e07b39", "#3aa57a", "#b870c9", "#c9a227", "#d4607c")
"""As readable on white as on a dark page."""

STYLES = ("-", "--", ":", "-.")
MARKERS = (".", "o", "s", "D", "^", "v", "P", "X")

_CARDS = "kprune.report.cards"


class Displayed:
    """An object that notebooks show as a card; `kprune.report.cards` draws it."""

    def _repr_html_(self) -> str | None:
        # The module lies above every class that is shown.
        cards = importlib.import_module(_CARDS)
        try:
            return str(cards.html(self))
        except ImportError:  # of jinja2 or matplotlib: the text is shown
            return None


def line(number: int) -> dict[str, Any]:
    """Return how Matplotlib draws a line, so that no two look alike.

    Colours change first, then the style of the line, then its markers: 192
    lines differ.

    Args:
        number: The line's, from 0.
    """
    styles = number // len(COLORS)
    return {
        "color": COLORS[number % len(COLORS)],
        "linestyle": STYLES[styles % len(STYLES)],
        "marker": MARKERS[styles // len(STYLES) % len(MARKERS)],
    }
